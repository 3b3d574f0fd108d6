// Work in stages, each cut into tasks, done by the calling thread and any that help.

#ifndef SPARSENET_STAGES_H_
#define SPARSENET_STAGES_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace sparsenet {

// `task` of 0 to count - 1, in any order. They are in as many groups, of the same size,
// as a thread may have memory of its own for: it stays with a group while it can, the
// same one in each stage. A task may wait for one of a group before its own.
struct Stage {
  int64_t count;
  std::function<void(int64_t)> task;
  int64_t groups = 1;
};

// Waits for what another thread is about to have done.
template <typename Condition>
void SpinUntil(const Condition& condition) {
  for (int spins = 0; !condition(); ++spins) {
    if (spins > 4000) std::this_thread::yield();
  }
}

// Runs stages one after the other.
//
// A pool's own loops wake a thread for each stage and have the caller wait for threads
// that are yet to wake, longer than a small product takes. Here helpers are called once,
// and the caller works until nothing is left.
class StagedWork {
 public:
  explicit StagedWork(std::vector<Stage> stages) : stages_(std::move(stages)) {
    for (const Stage& stage : stages_) progress_.emplace_back(stage.groups);
  }

  // Takes tasks until none is left that is not taken; the number of the thread says
  // with which group it begins.
  void Help(int64_t thread) {
    for (size_t s = 0; s < stages_.size(); ++s) {
      const Stage& stage = stages_[s];
      if (stage.count == 0) continue;
      const int64_t of_group = stage.count / stage.groups;
      for (int64_t g = 0; g < stage.groups; ++g) {
        const int64_t group = (thread + g) % stage.groups;
        for (int64_t i; (i = progress_[s].taken[group].fetch_add(1)) < of_group;) {
          stage.task(group * of_group + i);
          progress_[s].done.fetch_add(1, std::memory_order_release);
        }
      }
      // All is taken; what is not done is being done.
      SpinUntil([&] {
        return progress_[s].done.load(std::memory_order_acquire) >= stage.count;
      });
    }
  }

 private:
  struct Progress {
    explicit Progress(int64_t groups) : taken(groups) {}
    std::vector<std::atomic<int64_t>> taken;
    std::atomic<int64_t> done{0};
    Progress(Progress&& other) : taken(std::move(other.taken)) {}
  };

  const std::vector<Stage> stages_;
  std::vector<Progress> progress_;
};

// Runs the stages on up to so many threads and returns when all is done. `schedule`
// hands a function to another thread, which may be late and find nothing left to do.
template <typename Schedule>
void RunStages(std::vector<Stage> stages, int threads, const Schedule& schedule) {
  const auto work = std::make_shared<StagedWork>(std::move(stages));
  for (int i = 1; i < threads; ++i) schedule([work, i] { work->Help(i); });
  work->Help(0);
}

}  // namespace sparsenet

#endif  // SPARSENET_STAGES_H_

// Threads that walk through the phases of a forward pass together.
//
// One OpenMP region holds a whole forward pass: a region per op costs more than the small ops
// themselves. Work is taken from a counter, so that a thread that shares its core with another
// process does less; waiting threads yield for the same reason.
#pragma once

#include <omp.h>
#include <sched.h>

#include <atomic>
#include <vector>

namespace steelyard {

class Team {
 public:
  explicit Team(int phases) : counters_(phases) {}

  // Call work(i) for i in [0, count), each once, by whichever thread is free; ends together.
  // All threads of the region call with the same `phase`, each number once.
  template <typename Work>
  void phase(int phase, long count, const Work& work) {
    std::atomic<long>& next = counters_[phase].next;
    for (long i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed))
      work(i);
    wait();
  }

  // As `phase`, but the thread takes one item more than it works on: work(i, next), where next is
  // its item after this one, or -1. For items of equal size.
  template <typename Work>
  void phase_ahead(int phase, long count, const Work& work) {
    std::atomic<long>& counter = counters_[phase].next;
    long i = counter.fetch_add(1, std::memory_order_relaxed);
    while (i < count) {
      const long next = counter.fetch_add(1, std::memory_order_relaxed);
      work(i, next < count ? next : -1);
      i = next;
    }
    wait();
  }

 private:
  struct alignas(64) Counter {
    std::atomic<long> next{0};
  };

  void wait() {
    const int size = omp_get_num_threads();
    const long generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins) {
      if (spins < kSpins)
        __builtin_ia32_pause();
      else
        sched_yield();
    }
  }

  static constexpr int kSpins = 500;  // about 10 us; the other thread is mostly less late

  std::vector<Counter> counters_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<long> generation_{0};
};

}  // namespace steelyard

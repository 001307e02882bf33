// Stackful fibers: one per CUDA thread, all of them on one OS thread (x86-64).
//
// Every switch is announced to AddressSanitizer and ThreadSanitizer. To ThreadSanitizer a switch by
// itself orders nothing; only barriers and fenced atomics do. Two CUDA threads that touch the same
// shared memory without a barrier in between are therefore reported as a data race, although the
// fibers never really run at the same time.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if !defined(__x86_64__)
#error "fiber.h switches stacks with x86-64 assembly; other processors need their own switch"
#endif

#if defined(__SANITIZE_ADDRESS__)
#define PTX_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__SANITIZE_THREAD__)
#define PTX_TSAN 1
#define PTX_NO_TSAN __attribute__((no_sanitize("thread")))
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
#define PTX_NO_TSAN
#endif

namespace ptx {

#if defined(PTX_ASAN) || defined(PTX_TSAN)
constexpr size_t STACK_BYTES = 2 << 20;  // instrumented frames are larger
#else
constexpr size_t STACK_BYTES = 256 << 10;
#endif
constexpr size_t GUARD_BYTES = 4096;
constexpr unsigned TSAN_SWITCH_WITHOUT_SYNC = 1;

// Happens-before edges for ThreadSanitizer; nothing in other builds.
PTX_NO_TSAN inline void order_release(void* tag) {
#ifdef PTX_TSAN
  __tsan_release(tag);
#endif
  (void)tag;
}
PTX_NO_TSAN inline void order_acquire(void* tag) {
#ifdef PTX_TSAN
  __tsan_acquire(tag);
#endif
  (void)tag;
}

extern "C" void ptx_switch_stack(void** save_stack_pointer, void* load_stack_pointer);
asm(R"(
.text
.hidden ptx_switch_stack
.weak ptx_switch_stack
.type ptx_switch_stack,@function
ptx_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ptx_switch_stack,.-ptx_switch_stack
)");

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* asan_fake_stack = nullptr;
  void* tsan_fiber = nullptr;

  // Allocates the stack on first use and makes the next resume() start at `entry`.
  PTX_NO_TSAN void prepare(void (*entry)()) {
    if (!stack) allocate();
    void** top = (void**)(stack + STACK_BYTES - 64);
    *--top = nullptr;  // return address of `entry`, which never returns
    *--top = (void*)entry;
    for (int saved_register = 0; saved_register < 6; saved_register++) *--top = nullptr;
    stack_pointer = top;
  }

  bool owns(uint64_t address) const { return address - (uint64_t)stack < STACK_BYTES; }

  // A process may map only so many regions, and a test run loads hundreds of modules.
  void release() {
    if (stack) munmap(stack, STACK_BYTES);
    stack = nullptr;
#ifdef PTX_TSAN
    if (tsan_fiber) __tsan_destroy_fiber(tsan_fiber);
    tsan_fiber = nullptr;
#endif
  }

 private:
  PTX_NO_TSAN void allocate() {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    stack = (char*)mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (stack == MAP_FAILED) abort();
    mprotect(stack, GUARD_BYTES,
             PROT_NONE);  // an overflow faults instead of corrupting a neighbour
#ifdef PTX_TSAN
    tsan_fiber = __tsan_create_fiber(0);
#endif
  }
};

// The scheduler runs on the stack of the caller; fibers switch to it and back.
struct SchedulerStack {
  void* stack_pointer = nullptr;
  void* asan_fake_stack = nullptr;
  const void* asan_bottom = nullptr;
  size_t asan_size = 0;
  void* tsan_fiber = nullptr;
};

inline SchedulerStack scheduler_stack;

PTX_NO_TSAN inline void resume_fiber(Fiber& fiber) {
#ifdef PTX_ASAN
  __sanitizer_start_switch_fiber(&scheduler_stack.asan_fake_stack, fiber.stack, STACK_BYTES);
#endif
#ifdef PTX_TSAN
  scheduler_stack.tsan_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber.tsan_fiber, TSAN_SWITCH_WITHOUT_SYNC);
#endif
  ptx_switch_stack(&scheduler_stack.stack_pointer, fiber.stack_pointer);
#ifdef PTX_ASAN
  __sanitizer_finish_switch_fiber(scheduler_stack.asan_fake_stack, nullptr, nullptr);
#endif
}

// `final`: the fiber will not be resumed again.
PTX_NO_TSAN inline void switch_to_scheduler(Fiber& fiber, bool final) {
  (void) final;
#ifdef PTX_ASAN
  __sanitizer_start_switch_fiber(final ? nullptr : &fiber.asan_fake_stack,
                                 scheduler_stack.asan_bottom, scheduler_stack.asan_size);
#endif
#ifdef PTX_TSAN
  __tsan_switch_to_fiber(scheduler_stack.tsan_fiber, TSAN_SWITCH_WITHOUT_SYNC);
#endif
  ptx_switch_stack(&fiber.stack_pointer, scheduler_stack.stack_pointer);
#ifdef PTX_ASAN
  __sanitizer_finish_switch_fiber(fiber.asan_fake_stack, &scheduler_stack.asan_bottom,
                                  &scheduler_stack.asan_size);
#endif
}

// First statement of every fiber.
PTX_NO_TSAN inline void announce_fiber_start() {
#ifdef PTX_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack.asan_bottom,
                                  &scheduler_stack.asan_size);
#endif
}

}  // namespace ptx

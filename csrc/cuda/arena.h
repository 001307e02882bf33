// The memory of a block: shared memory while there is room, else its slice of a workspace in global
// memory. On the host an arena without memory counts what kernels will take.
#pragma once

#include "../core/isa.h"

SPARSEDIS_BEGIN

constexpr int64_t kAligned = 16;  // bytes, of the widest access

class Arena {
 public:
  SPARSEDIS_HD Arena(char* shared, int64_t room, char* slice)
      : shared_(shared), slice_(slice), room_(room) {}

  template <typename T>
  SPARSEDIS_HD T* take(int64_t count) {
    if (T* on_chip = take_shared<T>(count)) return on_chip;
    const int64_t at = sliced_;
    sliced_ += bytes_of<T>(count);
    return reinterpret_cast<T*>(slice_ + at);
  }
  // Null where there is no room on the chip.
  template <typename T>
  SPARSEDIS_HD T* take_shared(int64_t count) {
    const int64_t at = taken_;
    whole_ = whole_ && bytes_of<T>(count) <= room_ - taken_;
    if (bytes_of<T>(count) > room_ - taken_) return nullptr;
    taken_ += bytes_of<T>(count);
    return reinterpret_cast<T*>(shared_ + at);
  }
  // Whether all that was asked for is on the chip.
  SPARSEDIS_HD bool whole() const { return whole_; }
  SPARSEDIS_HD int64_t taken() const { return taken_; }
  SPARSEDIS_HD int64_t sliced() const { return sliced_; }

 private:
  template <typename T>
  SPARSEDIS_HD static int64_t bytes_of(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + kAligned - 1) / kAligned * kAligned;
  }

  char *shared_, *slice_;
  int64_t room_, taken_ = 0, sliced_ = 0;
  bool whole_ = true;
};

SPARSEDIS_END

// What libtorch's bindings for Rust leave out about GPUs. It needs headers of the CPU half alone: calls reach
// CUDA through the hooks that its half registers when it is loaded. Every function answers whether it did what
// it was asked; no exception leaves it.

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>

#include <cstdint>

namespace {
template <typename F> int tried(F work) {
  try {
    if (!at::accelerator::getAccelerator(false).has_value()) return 0;
    work();
    return 1;
  } catch (...) {
    return 0;
  }
}
} // namespace

extern "C" {

// Bytes: free and in all, by the driver; held by tensors now and at most, by libtorch.
int mopd_device_memory(int device, uint64_t out[4]) {
  return tried([&] {
    auto index = static_cast<c10::DeviceIndex>(device);
    auto [free, total] = at::accelerator::getMemoryInfo(index);
    auto stats = at::accelerator::getDeviceStats(index);
    auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    out[0] = free;
    out[1] = total;
    out[2] = static_cast<uint64_t>(stats.allocated_bytes[all].current);
    out[3] = static_cast<uint64_t>(stats.allocated_bytes[all].peak);
  });
}

int mopd_reset_peak_memory(int device) {
  return tried([&] { at::accelerator::resetPeakStats(static_cast<c10::DeviceIndex>(device)); });
}

// Blocks that no tensor holds go back to the driver.
int mopd_empty_cache() {
  return tried([] { at::accelerator::emptyCache(); });
}

// Waits until everything that was asked of the device is done.
int mopd_synchronize(int device) {
  return tried([&] { at::accelerator::synchronizeDevice(static_cast<c10::DeviceIndex>(device)); });
}

// How the device computes, for the whole process.
int mopd_set_arithmetic(int deterministic, int tf32) {
  return tried([&] {
    auto &context = at::globalContext();
    // Where an operator has no deterministic form libtorch warns; it would fail a run that was asked for.
    context.setDeterministicAlgorithms(deterministic != 0, /*warn_only=*/true);
    context.setDeterministicFillUninitializedMemory(false);
    context.setDeterministicCuDNN(deterministic != 0);
    context.setBenchmarkCuDNN(false);
    context.setAllowTF32CuBLAS(tf32 != 0);
    context.setAllowTF32CuDNN(tf32 != 0);
    // cuDNN's attention makes a plan for each new shape, and completions have new lengths in every step.
    context.setSDPUseCuDNN(false);
  });
}
}

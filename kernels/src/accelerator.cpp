// What libtorch's bindings for Rust leave out about GPUs. It needs headers of the CPU half alone: calls reach
// CUDA through the hooks that its half registers when it is loaded. Every function answers whether it did what
// it was asked; no exception leaves it.

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <c10/core/Allocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

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

c10::Device cuda(int device) { return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)}; }

// `at::cuda::CUDAGraph`, found by the names that its functions have in the CUDA half: its header needs CUDA's.
enum class Mode : int { thread_local_errors = 1 };

struct GraphFunctions {
  using Plain = void (*)(void *);
  void (*create)(void *, bool) = nullptr;
  void (*begin)(void *, c10::MempoolId_t, Mode) = nullptr;
  c10::MempoolId_t (*pool)(void *) = nullptr;
  Plain end = nullptr, replay = nullptr, destroy = nullptr;

  GraphFunctions() {
    find(create, "_ZN2at4cuda9CUDAGraphC1Eb");
    find(begin, "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
    find(pool, "_ZN2at4cuda9CUDAGraph4poolEv");
    find(end, "_ZN2at4cuda9CUDAGraph11capture_endEv");
    find(replay, "_ZN2at4cuda9CUDAGraph6replayEv");
    find(destroy, "_ZN2at4cuda9CUDAGraphD1Ev");
  }

  template <typename F> static void find(F &function, const char *name) {
    function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  }

  bool all() const { return create && begin && pool && end && replay && destroy; }
};

const GraphFunctions &functions() {
  static const GraphFunctions found;
  return found;
}

struct Graph {
  // Several times what one takes in libtorch 2.11.
  alignas(64) unsigned char memory[1024] = {};
  c10::impl::VirtualGuardImpl guard{c10::DeviceType::CUDA};
  c10::Stream before;
  bool capturing = false;
  int device;

  explicit Graph(int device) : before(guard.getStream(cuda(device))), device(device) {
    functions().create(memory, false);
  }
  ~Graph() {
    stop();
    functions().destroy(memory);
  }

  void stop() {
    if (capturing) guard.exchangeStream(before);
    capturing = false;
  }
};

// Page-locked memory, with an event behind the last asynchronous copy from or to it.
struct Pinned {
  c10::DataPtr memory;
  c10::Event copied{c10::DeviceType::CUDA};
  c10::impl::VirtualGuardImpl guard{c10::DeviceType::CUDA};
};

// The last one of this thread. Its memory is what the next one uses: blocks of a graph's own pool go back to
// the driver only when the driver has no more.
thread_local std::shared_ptr<Graph> last;
} // namespace

extern "C" {

// Bytes: free and in all, by the driver; held by tensors now and at most, by libtorch.
int mopd_device_memory(int device, uint64_t out[4]) {
  return tried([&] {
    auto index = static_cast<c10::DeviceIndex>(device);
    // It is asked before the first tensor is made, which would do this.
    at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
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

// Waits until everything that was asked of the device is done: operators of all threads run on one stream. To wait
// for the device itself would end what another thread captures (CUDA C++ Programming Guide, "Prohibited and Unhandled
// Operations").
int mopd_synchronize(int device) {
  return tried([&] {
    c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    guard.synchronizeStream(guard.getStream(cuda(device)));
  });
}

// The stream on which this thread's operators run, as the driver knows it.
int mopd_stream(int device, void **out) {
  return tried([&] {
    c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    *out = guard.getStreamNativeHandle(guard.getStream(cuda(device)));
  });
}

// From here on what this thread launches is captured and does not run; null where that can't be.
void *mopd_graph_begin(int device) {
  std::unique_ptr<std::shared_ptr<Graph>> graph;
  tried([&] {
    if (!functions().all()) return;
    auto made = std::make_shared<Graph>(device);
    bool shares = last && last->device == device;
    auto pool = shares ? functions().pool(last->memory) : c10::MempoolId_t{0, 0};
    made->guard.exchangeStream(made->guard.getStreamFromGlobalPool(cuda(device), false));
    made->capturing = true;
    functions().begin(made->memory, pool, Mode::thread_local_errors);
    graph = std::make_unique<std::shared_ptr<Graph>>(std::move(made));
  });
  return graph.release();
}

int mopd_graph_end(void *graph) {
  auto &own = *static_cast<std::shared_ptr<Graph> *>(graph);
  int ended = tried([&] { functions().end(own->memory); });
  own->stop();
  if (ended) last = own;
  return ended;
}

// Launches what was captured, after what this thread launched before.
int mopd_graph_replay(void *graph) {
  return tried([&] { functions().replay((*static_cast<std::shared_ptr<Graph> *>(graph))->memory); });
}

void mopd_graph_free(void *graph) { delete static_cast<std::shared_ptr<Graph> *>(graph); }

// Null where that can't be. `memory` is where it is.
void *mopd_pinned_new(size_t bytes, void **memory) {
  std::unique_ptr<Pinned> pinned;
  tried([&] {
    auto made = std::make_unique<Pinned>();
    made->memory = at::globalContext().getPinnedMemoryAllocator(c10::DeviceType::CUDA)->allocate(bytes);
    *memory = made->memory.get();
    pinned = std::move(made);
  });
  return pinned.release();
}

// What this thread has launched until now is what `mopd_pinned_wait` waits for.
int mopd_pinned_record(void *pinned, int device) {
  return tried([&] {
    auto &own = *static_cast<Pinned *>(pinned);
    own.copied.record(own.guard.getStream(cuda(device)));
  });
}

int mopd_pinned_wait(void *pinned) {
  return tried([&] { static_cast<Pinned *>(pinned)->copied.synchronize(); });
}

void mopd_pinned_free(void *pinned) { delete static_cast<Pinned *>(pinned); }

// Causal attention over packed sequences: queries, keys, values and where sequences begin and end, see `flash.rs`. A
// window of 0 is none. Answers null, or what went wrong; the text is this thread's until it asks again.
const char *mopd_flash_attention(void *const in[4], int64_t longest, double scale, int64_t window, void **out) {
  static thread_local std::string message;
  try {
    auto of = [&](int index) -> const at::Tensor & { return *static_cast<const at::Tensor *>(in[index]); };
    auto left = window > 0 ? std::optional<int64_t>(window - 1) : std::nullopt;
    auto answer = at::_flash_attention_forward(of(0), of(1), of(2), of(3), of(3), longest, longest, /*dropout_p=*/0.0,
                                               /*is_causal=*/true, /*return_debug_mask=*/false, scale, left);
    *out = new at::Tensor(std::get<0>(answer));
    return nullptr;
  } catch (const std::exception &error) {
    message = error.what();
    return message.c_str();
  }
}

// How the device computes, for the whole process.
int mopd_set_arithmetic(int deterministic, int tf32) {
  return tried([&] {
    auto &context = at::globalContext();
    // An operator that has no deterministic form fails. If libtorch only warned of it, attention would take its
    // other form too.
    context.setDeterministicAlgorithms(deterministic != 0, /*warn_only=*/false);
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

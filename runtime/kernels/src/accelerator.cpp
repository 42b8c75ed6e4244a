// GPU functions of libtorch that its bindings for Rust lack. Only headers of libtorch's CPU library are
// needed: calls reach CUDA through the hooks that the CUDA library registers when it is loaded. Functions
// report success in their result and throw no exceptions.

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

// `at::cuda::CUDAGraph`, found by its symbols in the CUDA library, because its header needs CUDA's headers.
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
  // Several times the size of a `CUDAGraph` in libtorch 2.11.
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

// Page-locked memory, with an event recorded after the last asynchronous copy from or to it.
struct Pinned {
  c10::DataPtr memory;
  c10::Event copied{c10::DeviceType::CUDA};
  c10::impl::VirtualGuardImpl guard{c10::DeviceType::CUDA};
};

// The last graph of this thread. The next graph reuses its memory, because blocks of a graph's private pool
// go back to the driver only when the driver runs out of memory.
thread_local std::shared_ptr<Graph> last;
} // namespace

extern "C" {

// Bytes: free and total, from the driver; held by tensors now and at peak, from libtorch.
int mopd_device_memory(int device, uint64_t out[4]) {
  return tried([&] {
    auto index = static_cast<c10::DeviceIndex>(device);
    // This may be called before the first tensor, which would initialise the device.
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

// Returns blocks that no tensor holds to the driver.
int mopd_empty_cache() {
  return tried([] { at::accelerator::emptyCache(); });
}

// Waits until all work launched on the device is done: operators of all threads run on one stream. Waiting
// for the device itself would invalidate another thread's capture (CUDA C++ Programming Guide, "Prohibited
// and Unhandled Operations").
int mopd_synchronize(int device) {
  return tried([&] {
    c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    guard.synchronizeStream(guard.getStream(cuda(device)));
  });
}

// The driver's handle of the stream on which this thread's operators run.
int mopd_stream(int device, void **out) {
  return tried([&] {
    c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    *out = guard.getStreamNativeHandle(guard.getStream(cuda(device)));
  });
}

// Starts to capture this thread's launches, which do not run then; null where that is not possible.
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

// Launches the captured work, after this thread's earlier launches.
int mopd_graph_replay(void *graph) {
  return tried([&] { functions().replay((*static_cast<std::shared_ptr<Graph> *>(graph))->memory); });
}

void mopd_graph_free(void *graph) { delete static_cast<std::shared_ptr<Graph> *>(graph); }

// Allocates page-locked memory and writes its address to `memory`; null where that is not possible.
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

// Makes `mopd_pinned_wait` wait for everything that this thread has launched until now.
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

// Causal attention over packed sequences: queries, keys, values and bounds, see `flash.rs`. A window of 0
// means none. Returns null, or an error message, which is valid until this thread's next call.
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

// Sets how GPUs compute, for the whole process.
int mopd_set_arithmetic(int deterministic, int tf32) {
  return tried([&] {
    auto &context = at::globalContext();
    // Operators without a deterministic implementation fail. With a warning only, attention would use its
    // nondeterministic implementation.
    context.setDeterministicAlgorithms(deterministic != 0, /*warn_only=*/false);
    context.setDeterministicFillUninitializedMemory(false);
    context.setDeterministicCuDNN(deterministic != 0);
    context.setBenchmarkCuDNN(false);
    context.setAllowTF32CuBLAS(tf32 != 0);
    context.setAllowTF32CuDNN(tf32 != 0);
    // cuDNN's attention builds a plan for each new shape, and completions have new lengths in every step.
    context.setSDPUseCuDNN(false);
  });
}
}

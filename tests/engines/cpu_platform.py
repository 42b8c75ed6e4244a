"""A platform `cpu` for verl 0.9.1, so that its training engine runs over gloo. For tests only."""

import contextlib

import torch
import torch.distributed
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class DeviceModule:
    """What verl asks of `torch.cuda`."""

    class Event:
        def __init__(self, *given, **named):
            pass

        def record(self, *given, **named):
            pass

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return 0.0

    def __getattr__(self, name):
        return getattr(torch.cpu, name) if hasattr(torch.cpu, name) else lambda *given, **named: 0

    def is_available(self):
        return True

    def mem_get_info(self, *given):
        return 8 << 30, 16 << 30

    def get_rng_state(self, *given):
        return torch.get_rng_state()

    def set_rng_state(self, state, *given):
        torch.set_rng_state(state)

    def get_device_properties(self, *given):
        class Properties:
            total_memory = 16 << 30

        return Properties

    def get_device_name(self, *given):
        return "cpu"


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = property(lambda self: "cpu")
    vendor_name = property(lambda self: "cpu")
    device_module = property(lambda self: DeviceModule())

    def is_available(self):
        return True

    def is_platform_available(self, use_smi_check=False):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def set_device(self, index):
        pass

    def synchronize(self, index=None):
        pass

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    def manual_seed_all(self, seed):
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, message):
        return contextlib.nullcontext()

    def profiler_start(self):
        pass

    def profiler_stop(self):
        pass

    def ray_resource_name(self):
        return "GPU"

    def ray_resource_options(self, count):
        return {"num_gpus": count}

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None


with_backend = torch.distributed.init_process_group


def over_gloo(backend=None, **named):
    return with_backend(backend="gloo", **named)


torch.distributed.init_process_group = over_gloo

# verl keeps the weights of models that are not trained in pinned memory of the host, which needs a GPU.
torch.Tensor.pin_memory = lambda tensor, *given, **named: tensor

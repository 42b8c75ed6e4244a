//! Attention over packed sequences that never stores scores (FlashAttention-2, arXiv:2307.08691), by an
//! operator of libtorch that its bindings for Rust lack.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use tch::{Kind, Tensor};

use super::Gpu;
use super::driver::capability;
use crate::accelerator::ffi::mopd_flash_attention;

/// Least major compute capability of the operator: Ampere.
const FIRST: i32 = 8;
/// Largest width of a head, and the number of which it is a multiple.
const WIDTH: i64 = 256;
const MULTIPLE: i64 = 8;

/// The sequences of a batch on a GPU.
#[derive(Debug)]
pub struct FlashAttention {
    /// i32, `[sequences + 1]`: the first token of each, and the end of the last.
    bounds: Tensor,
    tokens: i64,
    longest: i64,
}

impl FlashAttention {
    /// Whether the operator supports this GPU, kind and head width.
    pub fn is_written_for(gpu: Gpu, kind: Kind, width: i64) -> bool {
        kind == Kind::BFloat16
            && width <= WIDTH
            && width % MULTIPLE == 0
            && capability(gpu).is_ok_and(|[major, _]| major >= FIRST)
    }

    /// `bounds` are i32, on the GPU, `[sequences + 1]`. `tokens` is the total number of tokens, `longest`
    /// that of the longest sequence.
    pub fn new(bounds: Tensor, tokens: i64, longest: i64) -> FlashAttention {
        assert_eq!((bounds.kind(), bounds.dim()), (Kind::Int, 1));
        FlashAttention { bounds, tokens, longest }
    }

    /// Causal attention, of each query over all keys up to its own or over the last `window` of them; `scale`
    /// multiplies scores. All tensors are `[tokens, heads, width]`; keys and values may have fewer heads,
    /// whose number divides that of queries. Differentiable.
    ///
    /// # Panics
    /// If libtorch's operator fails, with its message.
    pub fn attend(&self, [query, key, value]: [&Tensor; 3], scale: f64, window: Option<usize>) -> Tensor {
        for of in [query, key, value] {
            assert_eq!(of.size()[0], self.tokens, "a query, a key and a value for each token");
        }
        let tensors = [query, key, value, &self.bounds].map(|of| of.as_ptr().cast_mut().cast::<c_void>());
        let window = window.map_or(0, |window| i64::try_from(window).unwrap_or(0));
        let mut out = null_mut();
        // SAFETY: it reads four tensors and returns a new one or a message, which is copied at once.
        let attended = unsafe {
            let failed = mopd_flash_attention(tensors.as_ptr(), self.longest, scale, window, &raw mut out);
            if failed.is_null() {
                Ok(Tensor::from_ptr(out.cast()))
            } else {
                Err(CStr::from_ptr(failed).to_string_lossy().into_owned())
            }
        };
        attended.unwrap_or_else(|message| panic!("{message}"))
    }
}

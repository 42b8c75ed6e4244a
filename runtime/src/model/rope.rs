//! Rotary positions (arXiv:2104.09864): each pair of components of a query or key is rotated by an angle
//! proportional to its position.
//!
//! Checkpoints are trained with angles in f32, so angles are f32 here too, whatever the compute dtype: at
//! large positions the rounding error of an angle is large, and the model has learnt it.

use std::f64::consts::PI;

use tch::{Device, Kind, Tensor};

use super::{Config, LayerAttention, Rope, RopeScaling};
use crate::machine::transfer::upload;

/// The cosines and sines of consecutive positions from 0, `[positions, rotated width]` each, in the layout of
/// [`Rotary::apply_rope`].
pub(super) struct Rotary {
    pub cosine: Tensor,
    pub sine: Tensor,
}

impl Rotary {
    pub fn new(rope: &Rope, rotary_dim: usize, positions: usize, kind: Kind, device: Device) -> Rotary {
        let (frequencies, factor) = frequencies(rope, rotary_dim);
        let frequencies = upload(&frequencies, device);
        let angles =
            Tensor::arange(positions as i64, (Kind::Float, device)).unsqueeze(1) * frequencies.unsqueeze(0);
        let (cosine, sine) = (angles.cos() * factor, angles.sin() * factor);
        Rotary {
            cosine: Tensor::cat(&[&cosine, &cosine], 1).to_kind(kind),
            sine: Tensor::cat(&[-&sine, sine], 1).to_kind(kind),
        }
    }

    /// The rows of some positions, `[.., 1, rotated width]` for positions of any shape `[..]`.
    pub fn at(&self, positions: &Tensor) -> Rotary {
        let shape: Vec<i64> = positions.size().into_iter().chain([1, self.cosine.size()[1]]).collect();
        let rows = positions.reshape([-1]);
        let pick = |table: &Tensor| table.index_select(0, &rows).view(shape.as_slice());
        Rotary { cosine: pick(&self.cosine), sine: pick(&self.sine) }
    }

    /// `x` is `[.., heads, head width]`: `x * cosine + swap_halves(x) * sine`, where the first half of the
    /// sines is negated. Where tables are narrower than a head, the rest of it stays.
    pub fn apply_rope(&self, x: &Tensor) -> Tensor {
        let rotate = |x: &Tensor| {
            let half = x.size()[x.dim() - 1] / 2;
            x * &self.cosine + x.roll([half], [-1]) * &self.sine
        };
        let (width, rotated) = (x.size()[x.dim() - 1], self.cosine.size()[self.cosine.dim() - 1]);
        if width == rotated {
            return rotate(x);
        }
        let parts = x.split_with_sizes([rotated, width - rotated], -1);
        Tensor::cat(&[&rotate(&parts[0]), &parts[1]], -1)
    }
}

/// The rotary tables of a model: layers with a window may have their own.
pub(super) struct Rotaries {
    global: Rotary,
    local: Option<Rotary>,
}

impl Rotaries {
    /// The tables of the first `positions` positions.
    pub fn new(config: &Config, positions: usize, kind: Kind, device: Device) -> Rotaries {
        let rotated = config.rotary_dim.unwrap_or(config.head_dim);
        let table = |rope| Rotary::new(rope, rotated, positions, kind, device);
        Rotaries { global: table(&config.rope), local: config.local_rope.as_ref().map(table) }
    }

    pub fn at(&self, positions: &Tensor) -> Rotaries {
        Rotaries {
            global: self.global.at(positions),
            local: self.local.as_ref().map(|local| local.at(positions)),
        }
    }

    pub fn to_f32(&self) -> Rotaries {
        let to_f32 = |Rotary { cosine, sine }: &Rotary| Rotary {
            cosine: cosine.to_kind(Kind::Float).contiguous(),
            sine: sine.to_kind(Kind::Float).contiguous(),
        };
        Rotaries { global: to_f32(&self.global), local: self.local.as_ref().map(to_f32) }
    }

    /// The table of most layers, then that of layers with a window, if they have their own.
    pub fn tables(&self) -> impl Iterator<Item = &Rotary> {
        std::iter::once(&self.global).chain(&self.local)
    }

    /// The table of a layer; `None` where it has no positions.
    pub fn of(&self, layer: &LayerAttention) -> Option<&Rotary> {
        match (layer.rotary, layer.window, &self.local) {
            (false, _, _) => None,
            (true, Some(_), Some(local)) => Some(local),
            (true, _, _) => Some(&self.global),
        }
    }

    /// `x` is `[.., heads, head width]`.
    pub fn apply_rope(&self, layer: &LayerAttention, x: Tensor) -> Tensor {
        match self.of(layer) {
            None => x,
            Some(rotary) => rotary.apply_rope(&x),
        }
    }
}

/// Radians per position of each pair of components, and the factor of cosines and sines.
fn frequencies(rope: &Rope, rotary_dim: usize) -> (Vec<f32>, f64) {
    let plain = |pair: usize| {
        let exponent = (2 * pair) as f32 / rotary_dim as f32;
        1.0 / (rope.theta.powf(f64::from(exponent)) as f32)
    };
    let pairs = 0..rotary_dim / 2;
    match &rope.scaling {
        RopeScaling::None => (pairs.map(plain).collect(), 1.0),
        &RopeScaling::Linear { factor } => (pairs.map(|pair| plain(pair) / factor as f32).collect(), 1.0),
        &RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => {
            let scaled = |pair| {
                let frequency = f64::from(plain(pair));
                // The number of full rotations within the original context.
                let turns = original_context as f64 * frequency / (2.0 * PI);
                let kept = ((turns - low_frequency) / (high_frequency - low_frequency)).clamp(0.0, 1.0);
                (frequency * (kept + (1.0 - kept) / factor)) as f32
            };
            (pairs.map(scaled).collect(), 1.0)
        }
        RopeScaling::LongRope { attention, short, .. } => {
            let powers = |pair: usize| rope.theta.powf(f64::from((2 * pair) as f32 / rotary_dim as f32));
            let divided = |pair: usize| 1.0 / (short[pair] as f32 * powers(pair) as f32);
            (pairs.map(divided).collect(), *attention)
        }
        &RopeScaling::Yarn { factor, attention, beta_fast, beta_slow, original_context, truncate } => {
            // arXiv:2309.00071, section 3.2: the pair with `turns` full rotations within the original
            // context.
            let width = rotary_dim as f64;
            let pair = |turns: f64| {
                width * (original_context as f64 / (turns * 2.0 * PI)).ln() / (2.0 * rope.theta.ln())
            };
            let (first, last) = (pair(beta_fast), pair(beta_slow));
            let (first, last) = if truncate { (first.floor(), last.ceil()) } else { (first, last) };
            let (first, mut last) = (first.max(0.0), last.min(width - 1.0));
            if first == last {
                last += 0.001;
            }
            let scaled = |pair| {
                let divided = ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
                let frequency = f64::from(plain(pair));
                (frequency * (1.0 - divided) + frequency / factor * divided) as f32
            };
            (pairs.map(scaled).collect(), attention)
        }
    }
}

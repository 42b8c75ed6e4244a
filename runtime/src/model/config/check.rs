//! Whether the numbers of a configuration form a decoder. They come from files that are not trusted.

use super::{Config, Experts, GatedDelta, RopeScaling, ShortConv};

impl Config {
    /// Checks that the numbers form a valid model; errors name the settings.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("layers", self.layers),
            ("width", self.width),
            ("heads", self.heads),
            ("key_value_heads", self.key_value_heads),
            ("hidden", self.intermediate_size),
            ("context", self.context),
            ("vocabulary", self.vocabulary),
            ("head_dim", self.head_dim),
        ];
        // As with layers: sizes must not overflow.
        const MOST: usize = 1 << 24;
        for (name, size) in sizes {
            if size == 0 {
                return Err(format!("`{name}` must be at least 1"));
            }
            if size > MOST || (name == "layers" && size > Config::MOST_LAYERS) {
                return Err(format!("`{name} = {size}` is more than any decoder has"));
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!(
                "a head must have an even width, not {}: rotary positions rotate pairs",
                self.head_dim
            ));
        }
        if !self.heads.is_multiple_of(self.key_value_heads) {
            let Config { heads, key_value_heads, .. } = self;
            return Err(format!(
                "`heads = {heads}` must be a multiple of `key_value_heads = {key_value_heads}`"
            ));
        }
        if self.attention.len() != self.layers {
            return Err(format!(
                "{} layers, but attention is described for {}",
                self.layers,
                self.attention.len()
            ));
        }
        if let Some(delta) = &self.gated_delta {
            check_gated_delta(delta, self.layers)?;
        }
        if let Some(ShortConv { taps, layers, .. }) = &self.short_conv {
            if *taps == 0 || *taps > 1 << 16 {
                return Err(format!("`conv_L_cache` is {taps}; it must be from 1 to 65536"));
            }
            if layers.len() != self.layers || self.gated_delta.is_some() {
                return Err("short convolutions are described for other layers than the model has".to_owned());
            }
        }
        if self.rotary_dim.is_some_and(|dim| dim == 0 || dim > self.head_dim || !dim.is_multiple_of(2)) {
            let Config { head_dim, .. } = self;
            return Err(format!(
                "an even part of a head's {head_dim} numbers must be rotated, not {}",
                self.rotary_dim.unwrap_or(0)
            ));
        }
        if let RopeScaling::LongRope { short, long, .. } = &self.rope.scaling {
            let pairs = self.rotary_dim.unwrap_or(self.head_dim) / 2;
            if short.len() != pairs || long.len() != pairs {
                let (short, long) = (short.len(), long.len());
                return Err(format!(
                    "`short_factor` has {short} numbers and `long_factor` {long}, but {pairs} pairs are rotated"
                ));
            }
        }
        if let Some(experts) = &self.experts {
            if experts.layers.len() != self.layers {
                return Err(format!(
                    "{} layers, but experts are described for {}",
                    self.layers,
                    experts.layers.len()
                ));
            }
            if experts.per_token == 0
                || experts.per_token > experts.count
                || experts.intermediate_size == 0
                || experts.count > 65_536
            {
                let Experts { count, per_token, intermediate_size, .. } = experts;
                return Err(format!(
                    "{per_token} of {count} experts of width {intermediate_size} cannot form a feed-forward part"
                ));
            }
        }
        Ok(())
    }
}

fn check_gated_delta(delta: &GatedDelta, layers: usize) -> Result<(), String> {
    let GatedDelta { key_heads, value_heads, key_head_dim, value_head_dim, convolution, .. } = *delta;
    let sizes = [
        ("linear_num_key_heads", key_heads),
        ("linear_num_value_heads", value_heads),
        ("linear_key_head_dim", key_head_dim),
        ("linear_value_head_dim", value_head_dim),
        ("linear_conv_kernel_dim", convolution),
    ];
    for (name, size) in sizes {
        // Products of two must not overflow, and no decoder has more.
        if size == 0 || size > 1 << 16 {
            return Err(format!("`{name}` is {size}; it must be from 1 to 65536"));
        }
    }
    if !value_heads.is_multiple_of(key_heads) {
        return Err(format!(
            "`linear_num_value_heads` is {value_heads}, which must be a multiple of `linear_num_key_heads`, \
             which is {key_heads}"
        ));
    }
    if delta.layers.len() != layers {
        return Err(format!(
            "{layers} layers, but the gated delta rule is described for {}",
            delta.layers.len()
        ));
    }
    Ok(())
}

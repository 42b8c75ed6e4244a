//! Adapters of matrices that are stored as one, of which the decoder reads rows.

use std::rc::Rc;
use std::sync::Arc;

use mopd_plan::{Adapter, AdapterKind, Projection};
use tch::Kind;

use super::parity::{CASES, batch, loss_and_gradient, mean_logp, references, weights};
use crate::machine::place::Place;
use crate::model::*;
use crate::random::{Key, Purpose};

/// The gradient that the backward pass writes part by part is that of whole matrices.
#[test]
fn the_gradient_of_an_adapter_is_that_of_the_stored_matrices() {
    for case in CASES.into_iter().filter(|case| case.starts_with("phi3")) {
        for kind in [AdapterKind::Lora, AdapterKind::Dora] {
            let base = Arc::new(weights(case));
            let targets = [Projection::ATTENTION, Projection::FEED_FORWARD].concat();
            let settings = Adapter { kind, rank: 3, alpha: 2.0, dropout: 0.0, targets, layers: None };
            let place = Place::cpu();
            let adapted =
                Adapted::new(&settings, &base, place, Key::new(1, 2, Purpose::Initialise, 0)).unwrap();
            let mut parameters = adapted.parameters().shallow_clone();
            parameters += parameters.randn_like() * 0.2;
            let decoder = Decoder::trainable(&base, place, Kind::Float);
            adapted.merge(decoder.flat());
            let references = references(case);
            let batch = batch(&references);
            let (_, whole) = loss_and_gradient(&decoder, &batch, 0, |logits| mean_logp(logits, &batch));
            let adapted = Rc::new(adapted);
            let of = |write: &dyn Fn(&mut Gradient)| {
                let gradient = Gradient::zero(parameters.numel(), Kind::Float, place);
                let mut gradient = gradient.of(GradientOf::Adapter(adapted.clone()));
                write(&mut gradient);
                gradient.part(0..parameters.numel())
            };
            let expected = of(&|gradient| gradient.write_parameters(0, &whole));
            let found = of(&|gradient| {
                let trace = decoder.trace(&batch, 0);
                let hidden = trace.hidden.detach().set_requires_grad(true);
                let loss = mean_logp(&hidden.linear::<&tch::Tensor>(decoder.lm_head(), None), &batch);
                let by = tch::Tensor::run_backward(&[loss], &[&hidden], false, false).remove(0);
                decoder.write_gradient(trace, &by, HeadGrads::default(), gradient);
            });
            let apart = ((&found - &expected).norm() / expected.norm()).double_value(&[]);
            assert!(expected.norm().double_value(&[]) > 1e-2, "{case}: nothing to compare");
            assert!(apart < 1e-5, "{case}, {kind:?}: {apart}");
        }
    }
}

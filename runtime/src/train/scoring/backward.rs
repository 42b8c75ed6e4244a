//! The backward pass, from d loss / d primitive per token to the weights: through the heads into the last
//! hidden states, and from there through the student's layers.

use mopd_expr::batch::Batch;
use mopd_plan::{Live, Objective};
use tch::{Kind, Tensor, no_grad_guard};

use super::context::Scoring;
use super::pass::ScoringPass;
use crate::failure::Result;
use crate::machine::transfer::upload;
use crate::model::{Gradient, HeadGrads};
use crate::train::objective::{failed, missing};
use crate::train::rollouts::Rollouts;
use crate::train::views::ScorerPrompts;
use crate::train::vocabulary::Parameters;
use crate::zip::zip_equal;

impl ScoringPass {
    /// d loss / d trained parameters, in single precision or in the model's own. `adjoints` are d loss /
    /// d primitive, per token, in the objective's order; `batch` is the one that `score` returned.
    pub fn gradient(
        self,
        scoring: &Scoring,
        rollouts: &Rollouts,
        batch: &Batch,
        adjoints: &[&[f32]],
    ) -> Result<Gradient> {
        let Scoring { stage, model, trained, .. } = *scoring;
        let objective = &stage.train.objective;
        let followed = self.adjoint_of_rest(objective, adjoints).zip(self.rest_primitive(objective)?);
        let ScoringPass { hidden, second, trace, micro_batches, vocabulary, .. } = self;
        // With several micro-batches, their gradients are accumulated.
        let make = if trace.is_some() { Gradient::zero } else { Gradient::sum };
        let mut gradient = trained.no_gradient(model, make);
        let device = hidden.device();
        let parameters = Parameters { batch, device };
        let (mut live, mut of_head, mut of_confidence) = (Vec::new(), None, None);
        for (primitive, adjoint) in zip_equal(&objective.live, adjoints) {
            let resolved =
                parameters.primitive(&primitive.primitive).map_err(|error| failed(error, objective))?;
            let of_tokens = upload(adjoint, device);
            match (resolved, &primitive.primitive) {
                (Some(primitive), _) => live.push((primitive, of_tokens)),
                (None, Live::ConfidenceLogit) => {
                    check_confidence(objective, &rollouts.sequences.second_tokens(), adjoint)?;
                    of_confidence = Some(of_tokens);
                }
                (None, _) => of_head = Some(of_tokens),
            }
        }
        live.extend(followed.map(|(adjoint, rest)| (rest, upload(&adjoint, device))));
        let compared = scoring.models.compared(model);
        let mut heads = HeadGrads::default();
        let mut grad_hidden = None;
        if !live.is_empty() {
            let of_lm_head = model.lm_head_is_in(&gradient);
            let (of_logits, lm_head) = vocabulary.projected_gradient(&live, &hidden, &compared, of_lm_head);
            (grad_hidden, heads.lm_head) = (Some(of_logits), lm_head);
        }
        if let Some(adjoint) = of_head {
            let head = model.scalar_head().expect("what is live in the loss has a value");
            let (of_scalars, grad) = through_scalar_head(&adjoint, &hidden, head);
            grad_hidden =
                Some(grad_hidden.map_or_else(|| of_scalars.shallow_clone(), |sum| sum + &of_scalars));
            heads.scalar = Some(grad);
        }
        let nothing = || Tensor::zeros(hidden.size(), (accumulation_kind(hidden.kind()), device));
        let mut grad_hidden = match (grad_hidden, &of_confidence) {
            (None, Some(_)) => nothing(),
            (grad, _) => grad.expect("something in the loss is live"),
        };
        if let Some(pass) = second {
            let (of_layers, grad) = pass.backward(model, &grad_hidden, of_confidence.as_ref());
            (grad_hidden, heads.second) = (of_layers, Some(grad));
        }
        if let Some(trace) = trace {
            model.write_gradient(trace, &grad_hidden, heads, &mut gradient);
            return Ok(gradient);
        }
        drop(hidden);
        for members in &micro_batches {
            let tokens: Vec<i64> = members
                .iter()
                .flat_map(|member| rollouts.sequences.tokens(*member))
                .map(|token| token as i64)
                .collect();
            let grad_hidden = grad_hidden.index_select(0, &upload(&tokens, device));
            let trace = model.trace(
                &stage.packing().packed(&rollouts.sequences, members, &ScorerPrompts::Own),
                stage.recomputed,
            );
            // The first micro-batch takes the heads' gradients, which are of all tokens already.
            model.write_gradient(trace, &grad_hidden, std::mem::take(&mut heads), &mut gradient);
        }
        Ok(gradient)
    }
}

/// Checks that the confidence has a gradient only at tokens of the second head.
fn check_confidence(objective: &Objective, second: &[i64], adjoint: &[f32]) -> Result<()> {
    let mut of_first = vec![true; adjoint.len()];
    second.iter().for_each(|place| of_first[*place as usize] = false);
    if zip_equal(adjoint, of_first).all(|(adjoint, of_first)| !of_first || *adjoint == 0.0) {
        return Ok(());
    }
    let why = "the token of a first head always stands";
    Err(missing("`live student.confidence` of tokens of the first head", why, objective)
        .help("restrict the term to the second head: `{ when = head == 1 }`"))
}

fn accumulation_kind(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// From d loss / d output of a scalar head, `[tokens]`: d loss / d hidden states, `[tokens, width]`, in
/// single precision where they are in half, and d loss / d head, `[1, width]`.
fn through_scalar_head(adjoint: &Tensor, hidden: &Tensor, head: &Tensor) -> (Tensor, Tensor) {
    let _guard = no_grad_guard();
    let kind = accumulation_kind(hidden.kind());
    let (adjoint, hidden, head) =
        (adjoint.to_kind(kind).unsqueeze(1), hidden.to_kind(kind), head.detach().to_kind(kind));
    (adjoint.mm(&head), adjoint.tr().mm(&hidden))
}

//! `mopd bench divergence`: compares the two passes over the vocabulary with the plain code they replace.

use mopd_expr::batch::Batch;
use mopd_expr::graph::{Graph, LiveId};
use mopd_plan::events::{BenchDivergence, BenchJob, Event, FailureKind, Measure};
use mopd_plan::{Axis, Divergence, DivergenceKind, Function, Mass, Role, Summand, Support};
use tch::{Kind, Tensor, no_grad_guard};

use crate::control::Control;
use crate::failure::{Error, Result};
use crate::machine::memory::{peak_of, reset_peak_of};
use crate::machine::place::Place;
use crate::train::vocabulary::{Logits, Parameters, Primitive, Vocabulary};

/// Entries of a truncated support.
const K: u32 = 64;
const BETA: f64 = 0.5;

/// Measures on one thread. Emits one event.
pub fn bench(job: &BenchJob, place: Place, control: &Control) -> Result<()> {
    if job.tokens == 0 || job.vocabulary <= K || job.width == Some(0) {
        let message = format!("a bench needs a token, a width of 1 and a vocabulary of {} at least", K + 1);
        return Err(Error::new(FailureKind::Runtime, message));
    }
    let inputs = BenchInputs::new(job, place);
    match job.measure {
        Measure::Memory { plain } => {
            let before = reset_peak_of(place);
            if plain {
                drop(inputs.plain())
            } else {
                drop(inputs.chunked(inputs.student.shallow_clone()))
            };
            let bytes = before.map(|before| peak_of(place).unwrap_or(before).saturating_sub(before));
            control.emit(&Event::MeasuredMemory { bytes });
        }
        Measure::Time { runs } => {
            let (mut plain, mut chunked) = (Vec::new(), Vec::new());
            let mut differences = (0.0, 0.0);
            for run in 0..=runs {
                control.check()?;
                let started = place.now();
                let expected = inputs.plain();
                let plain_seconds = (place.now() - started).as_secs_f64();
                // The gradient overwrites given logits, so each run has its own copy.
                let student = inputs.student.copy();
                let started = place.now();
                let got = inputs.chunked(student);
                let chunked_seconds = (place.now() - started).as_secs_f64();
                // The first run warms up; its gradients are compared.
                if run == 0 {
                    let gradients = expected
                        .gradients
                        .iter()
                        .zip(&got.gradients)
                        .map(|(expected, got)| relative(expected, got));
                    differences = (relative(&expected.values, &got.values), gradients.fold(0.0, f64::max));
                } else {
                    plain.push(plain_seconds);
                    chunked.push(chunked_seconds);
                }
            }
            let (value_difference, gradient_difference) = differences;
            control.emit(&Event::MeasuredTime { plain, chunked, value_difference, gradient_difference });
        }
    }
    Ok(())
}

/// Given logits, or hidden states with their LM heads.
struct BenchInputs<'a> {
    job: &'a BenchJob,
    place: Place,
    /// Logits or hidden states, one row per token.
    student: Tensor,
    teacher: Tensor,
    /// `[vocabulary, width]`
    matrices: Option<[Tensor; 2]>,
    adjoint: Tensor,
    targets: Tensor,
}

struct Outcome {
    /// `[tokens]`
    values: Tensor,
    /// Gradients of the logits, or of hidden states and LM head.
    gradients: Vec<Tensor>,
}

impl BenchInputs<'_> {
    fn new(job: &BenchJob, place: Place) -> BenchInputs<'_> {
        let _guard = no_grad_guard();
        tch::manual_seed(1);
        let (tokens, vocabulary) = (i64::from(job.tokens), i64::from(job.vocabulary));
        // Filled in place, so that no temporary adds to the memory that is measured.
        let random = |shape: [i64; 2], deviation: f64| {
            Tensor::empty(shape, (Kind::Float, place.device)).normal_(0.0, deviation)
        };
        let width = job.width.map(i64::from);
        let columns = width.unwrap_or(vocabulary);
        let deviation = if width.is_some() { 1.0 } else { 2.0 };
        let (student, teacher) = (random([tokens, columns], deviation), random([tokens, columns], deviation));
        let matrices =
            width.map(|width| [(); 2].map(|()| random([vocabulary, width], 2.0 / (width as f64).sqrt())));
        let adjoint = Tensor::full([tokens], 1.0 / tokens as f64, (Kind::Float, place.device));
        let targets = Tensor::zeros([tokens], (Kind::Int64, place.device));
        BenchInputs { job, place, student, teacher, matrices, adjoint, targets }
    }

    /// The usual code: log-softmax of both, the divergence, and autograd.
    fn plain(&self) -> Outcome {
        let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        let mut leaves = vec![leaf(&self.student)];
        let (student, teacher) = match &self.matrices {
            None => (leaves[0].shallow_clone(), self.teacher.shallow_clone()),
            Some([student, teacher]) => {
                leaves.push(leaf(student));
                (leaves[0].linear::<&Tensor>(&leaves[1], None), self.teacher.linear::<&Tensor>(teacher, None))
            }
        };
        let (p, q) = (student.log_softmax(-1, Kind::Float), teacher.log_softmax(-1, Kind::Float));
        drop((student, teacher));
        let summands = match self.job.divergence {
            BenchDivergence::Kl => p.exp() * (&p - &q),
            BenchDivergence::Jsd => {
                let m = (&p + BETA.ln()).logaddexp(&(&q + (1.0 - BETA).ln()));
                p.exp() * (&p - &m) * BETA + q.exp() * (&q - &m) * (1.0 - BETA)
            }
            BenchDivergence::TopK => {
                let (_, support) = q.topk(i64::from(K), -1, true, false);
                let (p, q) = (p.gather(-1, &support, false), q.gather(-1, &support, false));
                p.exp() * (&p - &q) - p.exp() + q.exp()
            }
        };
        let values = summands.sum_dim_intlist([-1].as_slice(), false, Kind::Float);
        let loss = (&values * &self.adjoint).sum(Kind::Float);
        Outcome { values: values.detach(), gradients: Tensor::run_backward(&[loss], &leaves, false, false) }
    }

    fn chunked(&self, student: Tensor) -> Outcome {
        let between =
            |kind, support, mass| Divergence::between(kind, Role::Student, Role::TEACHER, support, mass);
        let divergence = match self.job.divergence {
            BenchDivergence::Kl => between(DivergenceKind::Kl, Support::Full, Mass::Raw),
            BenchDivergence::Jsd => {
                between(DivergenceKind::Entrywise(Box::new(jensen_shannon())), Support::Full, Mass::Raw)
            }
            BenchDivergence::TopK => {
                let support = Support::TopK { role: Role::TEACHER, k: K };
                between(DivergenceKind::Kl, support, Mass::Generalized)
            }
        };
        let batch = Batch::default();
        let parameters = Parameters { batch: &batch, device: self.adjoint.device() };
        let primitive = || {
            Primitive::Divergence(
                parameters.divergence(&divergence).expect("all parameters of the divergence are numbers"),
            )
        };
        let logits = |rows: Tensor, matrix: Option<&Tensor>| match matrix {
            None => Logits::Given(rows),
            Some(matrix) => Logits::projected(&rows, matrix),
        };
        let [of_student, of_teacher] = match &self.matrices {
            None => [None, None],
            Some([student, teacher]) => [Some(student), Some(teacher)],
        };
        let hidden = student.shallow_clone();
        let teacher = vec![(Role::TEACHER, vec![logits(self.teacher.shallow_clone(), of_teacher)])];
        let vocabulary =
            Vocabulary::new(self.place, &self.targets, logits(student, of_student), teacher, None, &[0]);
        let [_, mut values] = vocabulary.read(&[], &[primitive()]);
        let values = values.swap_remove(0);
        let live = [(primitive(), self.adjoint.shallow_clone())];
        let gradients = match of_student {
            None => {
                // Given logits are overwritten by their gradient.
                vocabulary.gradient(&live, |_| {});
                vec![hidden]
            }
            Some(matrix) => {
                let (grad_hidden, grad_lm_head) = vocabulary.projected_gradient(&live, &hidden, matrix, true);
                let grad_lm_head = grad_lm_head.expect("it is asked for");
                vec![grad_hidden, grad_lm_head.rows(0..matrix.size()[0])]
            }
        };
        Outcome { values, gradients }
    }
}

/// `jsd(left, right, beta: BETA)`, as the compiler builds it from the standard library's text.
fn jensen_shannon() -> Summand {
    use Function::{Add, Divide, Log, Multiply};
    let mut graph = Graph::default();
    let shares = [BETA, 1.0 - BETA].map(|share| graph.constant(Axis::Run, share));
    let sides = [0, 1].map(|side| graph.live(LiveId(side)));
    let scaled = [0, 1].map(|side| graph.apply(Multiply, &[shares[side], sides[side]]));
    let mixture = graph.apply(Add, &scaled);
    let parts = [0, 1].map(|side| {
        let ratio = graph.apply(Divide, &[sides[side], mixture]);
        let log = graph.apply(Log, &[ratio]);
        graph.apply(Multiply, &[scaled[side], log])
    });
    let value = graph.apply(Add, &parts);
    Summand { graph, value, parameters: Vec::new() }
}

/// The largest difference, relative to the largest expected magnitude.
fn relative(expected: &Tensor, got: &Tensor) -> f64 {
    let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
    largest(&(expected - got)) / largest(expected).max(f64::MIN_POSITIVE)
}

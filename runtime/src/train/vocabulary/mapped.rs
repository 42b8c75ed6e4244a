//! Logits of a model with another vocabulary and other tokens, as columns of the student's vocabulary and
//! rows of the student's tokens. See [`super::super::other_tokenizer`].

use std::rc::Rc;

use mopd_plan::Role;
use tch::{Device, Kind, Tensor};

use super::Logits;
use crate::machine::place::Place;
use crate::machine::transfer::upload;
use crate::model::ABSENT;
use crate::tokenizer::spans::TextSpan;
use crate::tokenizer::{Token, VocabularyMap};

/// Each column's entry of another vocabulary: first the student's ids, then entries only the other has.
pub struct Columns {
    /// `[columns]`, 0 where there is no entry.
    ids: Tensor,
    /// `[columns]`, bool: the other vocabulary has no such entry.
    missing: Tensor,
}

impl Columns {
    pub fn new(of: &VocabularyMap, device: Device) -> Columns {
        let alone = of.alone.iter().map(|id| Some(*id));
        let ids: Vec<Option<Token>> = of.of_student.iter().copied().chain(alone).collect();
        let missing: Vec<bool> = ids.iter().map(Option::is_none).collect();
        let ids: Vec<Token> = ids.into_iter().map(Option::unwrap_or_default).collect();
        let [ids, missing] = [Tensor::from_slice(&ids), Tensor::from_slice(&missing)];
        Columns { ids: ids.to_device(device), missing: missing.to_device(device) }
    }

    fn len(&self) -> i64 {
        self.ids.numel() as i64
    }
}

/// Logits that are [`ABSENT`] in the whole row of a token where the other model has no distribution.
pub struct MappedLogits {
    logits: Box<Logits>,
    /// For each token, the row of `logits`, if there is one.
    rows: Rc<[Option<i64>]>,
    /// The range of tokens in `rows`: the first, and how many.
    first: usize,
    count: usize,
    columns: Rc<Columns>,
}

impl MappedLogits {
    pub fn new(logits: Logits, rows: Vec<Option<i64>>, columns: Rc<Columns>) -> MappedLogits {
        let count = rows.len();
        MappedLogits { logits: Box::new(logits), rows: rows.into(), first: 0, count, columns }
    }

    pub fn tokens(&self) -> i64 {
        self.count as i64
    }

    pub fn columns(&self) -> i64 {
        self.columns.len()
    }

    pub fn part(&self, first: i64, count: i64) -> MappedLogits {
        let (first, count) = (first as usize, count as usize);
        assert!(first + count <= self.count, "all tokens that are asked for are there");
        MappedLogits {
            logits: Box::new(self.logits.share()),
            rows: self.rows.clone(),
            first: self.first + first,
            count,
            columns: self.columns.clone(),
        }
    }

    pub fn release(&self) {
        self.logits.release();
    }

    /// `[count, columns]`
    pub fn rows(&self, place: Place, first: i64, count: i64) -> Tensor {
        let from = self.first + first as usize;
        let wanted = &self.rows[from..from + count as usize];
        let (places, rows): (Vec<i64>, Vec<i64>) =
            (0..).zip(wanted).filter_map(|(place, row)| Some((place, (*row)?))).unzip();
        let device = self.columns.ids.device();
        let (places, chosen) = (upload(&places, device), upload(&rows, device));
        let shape = [count, self.columns.len()];
        if rows.is_empty() {
            return Tensor::full(shape, f64::from(ABSENT), (Kind::Float, device));
        }
        let chosen = self.logits.chosen(&chosen);
        let logits = chosen.rows(place, 0, rows.len() as i64, None);
        let logits =
            logits.index_select(1, &self.columns.ids).masked_fill(&self.columns.missing, f64::from(ABSENT));
        if rows.len() as i64 == count {
            return logits;
        }
        let whole = Tensor::full(shape, f64::from(ABSENT), (logits.kind(), device));
        whole.index_copy(0, &places, &logits)
    }
}

/// A model's log-probabilities of some of its `targets`, `[rows]`: those in the `rows` of `logits`, at a
/// temperature. `absent` are ids that belong to no token.
pub fn logps_of(
    place: Place,
    logits: &Logits,
    rows: &[i64],
    targets: &[Token],
    absent: &[Token],
    temperature: f64,
) -> Tensor {
    let parts: Vec<Tensor> = rows
        .chunks(ROWS)
        .map(|rows| {
            let targets: Vec<Token> = rows.iter().map(|row| targets[*row as usize]).collect();
            let index = upload(rows, place.device);
            let absent = upload(absent, place.device);
            let of_rows = logits.chosen(&index).rows(place, 0, rows.len() as i64, Some(&absent));
            let logps = (of_rows.to_kind(Kind::Float) / temperature).log_softmax(-1, Kind::Float);
            let targets = upload(&targets, place.device).unsqueeze(1);
            logps.gather(1, &targets, false).squeeze_dim(1)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

/// Rows of logits that are computed at a time.
const ROWS: usize = 64;

/// The spans of a role with another tokenizer: they begin where its tokens and the student's begin together.
pub struct Spans {
    pub role: Role,
    /// `[tokens]`, bool: a span begins here, and the role has a distribution.
    pub begins: Tensor,
    /// `[tokens]`: the role's log-probability of the span's tokens after the first; 0 elsewhere.
    pub rest: Tensor,
    /// The same by the student with its current weights.
    pub student_rest: Tensor,
    /// The student's tokens after the first of a span, each with the span's first token. None of a span whose
    /// tokens spell different texts: of those, the first tokens alone are compared.
    pub follow: Vec<(usize, usize)>,
}

impl Spans {
    pub fn share(&self) -> Spans {
        Spans {
            role: self.role,
            begins: self.begins.shallow_clone(),
            rest: self.rest.shallow_clone(),
            student_rest: self.student_rest.shallow_clone(),
            follow: self.follow.clone(),
        }
    }

    /// Spans of one token each, until `set` replaces them.
    pub fn of_tokens(role: Role, tokens: usize, device: Device) -> Spans {
        let zeros = || Tensor::zeros([tokens as i64], (Kind::Float, device));
        let begins = Tensor::ones([tokens as i64], (Kind::Bool, device));
        Spans { role, begins, rest: zeros(), student_rest: zeros(), follow: Vec::new() }
    }

    /// Sets the spans of `count` tokens from `first`. `rest` has one number for each; `None` leaves 0.
    pub fn set(&mut self, first: usize, count: usize, spans: &[TextSpan], rest: Option<Tensor>) {
        let mut begins = vec![false; count];
        for TextSpan { student, same_text, .. } in spans {
            begins[student.start] = true;
            let rest = student.clone().skip(1).filter(|_| *same_text);
            self.follow.extend(rest.map(|token| (first + token, first + student.start)));
        }
        let place = |of: &Tensor| of.narrow(0, first as i64, count as i64);
        place(&self.begins).copy_(&Tensor::from_slice(&begins));
        rest.into_iter().for_each(|rest| place(&self.rest).copy_(&rest));
    }

    /// Sets `student_rest` from the student's log-probability of each token.
    pub fn set_student(&mut self, logps: &[f32]) {
        let mut rest = vec![0.0f32; logps.len()];
        self.follow.iter().for_each(|(token, first)| rest[*first] += logps[*token]);
        self.student_rest = upload(&rest, self.rest.device());
    }

    /// d loss / d log-probability of the student's tokens after the first of each span, from d loss / d
    /// `student_rest`.
    pub fn adjoint(&self, by_rest: &[f32]) -> Vec<f32> {
        let mut adjoint = vec![0.0; by_rest.len()];
        self.follow.iter().for_each(|(token, first)| adjoint[*token] += by_rest[*first]);
        adjoint
    }
}

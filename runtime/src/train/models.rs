//! The models beside the student: scorers, and models that write completions.
//!
//! Only one of them is in memory at a time, unless all together are small: it scores its sequences layer by
//! layer, and is freed before the next model or the student's backward pass needs memory. So memory does not
//! grow with the number of models, nor with their depth unless they write. Models with equal weights are one
//! model, whatever their names.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use mopd_plan::{Composition, ModelId, Role, Served, StudentCopy, Teacher, TeacherChoice, View};
use tch::{Kind, Tensor, no_grad_guard};

use super::other_tokenizer::OtherTokenizer;
use super::stage::{Section, Stage};
use super::vocabulary::{LazyTensor, LmHead, LmHeadInFile};
use crate::failure::Result;
use crate::machine::place::Place;
use crate::model::{Config, Decoder, ScoringDecoder, StreamedDecoder, Weights};
use crate::remote::{Server, Servers};
use crate::store::state::StateTensors;

/// A model by its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelRef {
    /// An index into the frozen models.
    Frozen(usize),
    /// The student as it is now.
    Student,
    /// An index into the copies of the student.
    Copy(usize),
    /// Another model that the stage trains, as it is now.
    Learner(usize),
}

/// A model, and what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModelScorer {
    pub model_ref: ModelRef,
    /// An index into the views: what the model reads in place of the prompts.
    pub view: Option<usize>,
    /// Whether its tokenizer differs from the student's; it then reads the text.
    pub own_tokens: bool,
    /// Whether it then reads conversations, which its own chat template renders.
    pub chat: bool,
}

/// Where the distributions of a scorer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScorerRef {
    Model(ModelScorer),
    /// An index into the compositions.
    Composed(usize),
    Served(ServedScorer),
}

/// A teacher on a server, and what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServedScorer {
    /// An index into the servers.
    server: usize,
    view: Option<usize>,
}

impl ScorerRef {
    /// The model, or `None` for a composition or a served teacher.
    pub fn model(self) -> Option<ModelScorer> {
        match self {
            ScorerRef::Model(scorer) => Some(scorer),
            ScorerRef::Composed(_) | ScorerRef::Served(_) => None,
        }
    }
}

/// A frozen model in memory.
#[derive(Clone)]
pub enum FrozenDecoder {
    Held(Rc<Decoder>),
    /// For scoring only, layer by layer: the model does not fit in memory.
    Streamed(Rc<StreamedDecoder>),
}

impl FrozenDecoder {
    pub fn scoring(&self) -> ScoringDecoder<'_> {
        match self {
            FrozenDecoder::Held(decoder) => ScoringDecoder::Held(decoder),
            FrozenDecoder::Streamed(decoder) => ScoringDecoder::Streamed(decoder),
        }
    }
}

/// Whether models with this total number of parameters stay in memory together. Otherwise they are read again
/// at every step, which on the CPU takes far less time than their forward passes.
pub fn fits_in_memory(place: Place, parameters: usize) -> bool {
    parameters <= place.sizes.resident
}

pub struct Models {
    /// The distinct served teachers of the stage.
    servers: Vec<Served>,
    place: Place,
    kind: Kind,
    frozen: Vec<Arc<Weights>>,
    of_model: HashMap<ModelId, usize>,
    /// All models that were needed so far, or only the last one of them.
    resident: RefCell<HashMap<usize, FrozenDecoder>>,
    /// LM heads of models that stay in memory, where nothing else of them was needed so far.
    lm_heads: RefCell<HashMap<usize, Tensor>>,
    keeps_all: bool,
    /// Rows of the student's LM head that belong to tokens. Some checkpoints are padded beyond the
    /// tokenizer's ids, by different amounts; padding is never drawn and has no probability.
    entries: i64,
    /// Tokenizers that differ from the student's, by index into the frozen models.
    other_tokenizers: HashMap<(usize, bool), OtherTokenizer>,
    copies: Vec<CopiedStudent>,
    /// All models that the stage trains, in their order.
    learners: Vec<Rc<Decoder>>,
    compositions: Vec<Composition>,
    views: Vec<View>,
    /// The scorer of each role, by role and section.
    scorers: Vec<Vec<Option<ScorerRef>>>,
}

/// The rows of an LM head that belong to tokens.
fn first_rows(lm_head: &Tensor, entries: i64) -> Tensor {
    lm_head.detach().narrow(0, 0, entries)
}

/// The index of an element in a list of distinct elements; appends it if it is missing.
fn place<T: Clone + PartialEq>(list: &mut Vec<T>, element: &T) -> usize {
    list.iter().position(|known| known == element).unwrap_or_else(|| {
        list.push(element.clone());
        list.len() - 1
    })
}

/// A copy of the student: its weights at an earlier step, or their moving average.
struct CopiedStudent {
    of: StudentCopy,
    decoder: Rc<Decoder>,
    /// The average in single precision where the copy computes in half: half precision could not hold what
    /// one step adds.
    average: Option<Tensor>,
}

impl Models {
    /// The models of a stage. None is loaded before it is needed.
    ///
    /// # Errors
    /// If the vocabulary of a teacher with another tokenizer can't be compared with the student's.
    pub fn new(stage: &Stage) -> Result<Models> {
        let mut frozen: Vec<Arc<Weights>> = Vec::new();
        let mut of_model = HashMap::new();
        // Models that only choose the trained elements by their change are read once and not kept.
        let compared: HashSet<ModelId> = stage.train.trainable.models().collect();
        let asked: HashSet<ModelId> =
            stage.train.scorer_and_writer_models().chain([stage.train.start]).collect();
        let apart = |id: &ModelId| compared.contains(id) && !asked.contains(id);
        let mut ids: Vec<&ModelId> = stage.models.keys().filter(|id| !apart(id)).collect();
        ids.sort();
        for id in ids {
            let weights = &stage.models[id];
            let known = frozen.iter().position(|known| Arc::ptr_eq(known, weights));
            of_model.insert(
                *id,
                known.unwrap_or_else(|| {
                    frozen.push(weights.clone());
                    frozen.len() - 1
                }),
            );
        }
        let mut copies: Vec<CopiedStudent> = Vec::new();
        let mut compositions: Vec<Composition> = Vec::new();
        let mut views: Vec<View> = Vec::new();
        let mut servers: Vec<Served> = Vec::new();
        let mut other_tokenizers = HashMap::new();
        let mut scored = |of: usize, name: &str, teacher: &Teacher, sees: &Option<View>, own_tokens: bool| {
            let chat = own_tokens && stage.sources[of].prompts.dataset.is_chat();
            let model_ref = match teacher {
                Teacher::Composed(composition) => {
                    return Ok(ScorerRef::Composed(place(&mut compositions, composition)));
                }
                Teacher::Served(served) => {
                    let server = place(&mut servers, served.as_ref());
                    let view = sees.as_ref().map(|view| place(&mut views, view));
                    return Ok(ScorerRef::Served(ServedScorer { server, view }));
                }
                Teacher::Model(id) => ModelRef::Frozen(of_model[id]),
                Teacher::Student(StudentCopy::Current) => ModelRef::Student,
                Teacher::Learner { learner, .. } => ModelRef::Learner(*learner as usize),
                Teacher::Student(kind) => {
                    let known = copies.iter().position(|copy| copy.of == *kind);
                    ModelRef::Copy(known.unwrap_or_else(|| {
                        let decoder = Rc::new(Decoder::frozen(&stage.start, stage.place, stage.kind));
                        let apart = matches!(kind, StudentCopy::Average { .. }) && stage.kind != Kind::Float;
                        let average = apart.then(|| stage.start.flat(Kind::Float, stage.place.device));
                        copies.push(CopiedStudent { of: *kind, decoder, average });
                        copies.len() - 1
                    }))
                }
            };
            if let (true, ModelRef::Frozen(index)) = (own_tokens, model_ref)
                && let Entry::Vacant(place) = other_tokenizers.entry((index, chat))
            {
                let (student, teacher) = (&stage.start.tokenizer, &frozen[index]);
                place.insert(OtherTokenizer::new(student, teacher, chat, &format!("the teacher `{name}`"))?);
            }
            let view = sees.as_ref().map(|view| place(&mut views, view));
            Ok(ScorerRef::Model(ModelScorer { model_ref, view, own_tokens, chat }))
        };
        let sections = stage.sources.sections();
        let routed = |section: &Section| {
            let routed = section.teacher?;
            Some(scored(section.source, &routed.name, &routed.weights, &routed.sees, routed.own_tokens))
        };
        let routed: Vec<Option<ScorerRef>> =
            sections.iter().map(routed).map(Option::transpose).collect::<Result<_>>()?;
        let beside = stage.sources.iter().map(|source| source.scorers.len()).max().unwrap_or(0);
        let mut scorers = vec![routed];
        for index in 0..beside {
            let mut own = |section: &Section| {
                let choice: &TeacherChoice = stage.sources[section.source].scorers.get(index)?.as_ref()?;
                Some(scored(section.source, &choice.name, &choice.teacher, &choice.sees, choice.own_tokens))
            };
            let own = sections.iter().map(&mut own).map(Option::transpose);
            scorers.push(own.collect::<Result<_>>()?);
        }
        let parameters: usize = frozen.iter().map(|weights| Weights::parameters(&weights.config)).sum();
        let entries = stage.start.tokenizer.vocabulary();
        let whole = |weights: &Arc<Weights>| weights.config.vocabulary >= weights.tokenizer.vocabulary();
        let all_whole = frozen.iter().chain([&stage.start]).all(whole);
        assert!(all_whole, "a model has a row for every token: that is looked at where it is read");
        let keeps_all = stage.models_fit.unwrap_or_else(|| fits_in_memory(stage.place, parameters));
        Ok(Models {
            servers,
            place: stage.place,
            kind: stage.kind,
            frozen,
            of_model,
            resident: RefCell::default(),
            lm_heads: RefCell::default(),
            keeps_all,
            entries: entries as i64,
            other_tokenizers,
            copies,
            learners: Vec::new(),
            compositions,
            views,
            scorers,
        })
    }

    /// The same with the models that the stage trains.
    pub fn with_learners(self, learners: &[Rc<Decoder>]) -> Models {
        Models { learners: learners.to_vec(), ..self }
    }

    /// The models of a stage as if they were too large to stay in memory.
    #[cfg(test)]
    pub fn one_at_a_time(stage: &Stage) -> Models {
        Models { keeps_all: false, ..Models::new(stage).unwrap() }
    }

    /// How many frozen models are in memory with their layers.
    #[cfg(test)]
    pub fn loaded(&self) -> usize {
        self.resident.borrow().len()
    }

    /// The scorer that has a role for the prompts of each section.
    pub fn of_role(&self, role: Role) -> &[Option<ScorerRef>] {
        match role {
            Role::Scorer(id) => &self.scorers[id.0 as usize],
            Role::Student | Role::Old | Role::Sampler => {
                unreachable!("the {} is no model beside the student", role.name())
            }
        }
    }

    /// The model that has a role for the prompts of a section; `None` where no model has it alone.
    #[cfg(test)]
    pub fn model(&self, role: Role, section: usize) -> Option<ModelRef> {
        Some(self.of_role(role)[section]?.model()?.model_ref)
    }

    /// The tokenizer of a model, where it differs from the student's.
    pub fn other_tokenizer(
        &self,
        ModelScorer { model_ref, own_tokens, chat, .. }: ModelScorer,
    ) -> Option<&OtherTokenizer> {
        let ModelRef::Frozen(index) = model_ref else { return None };
        self.other_tokenizers.get(&(index, chat)).filter(|_| own_tokens)
    }

    /// Whether any model that has the role has another tokenizer than the student.
    pub fn own_tokens(&self, role: Role) -> bool {
        let scorers = self.of_role(role).iter().flatten().filter_map(|scored| scored.model());
        scorers.into_iter().any(|scorer| scorer.own_tokens)
    }

    /// The view that a scorer reads in place of the prompts, if any; a composition has none.
    pub fn sees(&self, scored: ScorerRef) -> Option<&View> {
        let view = match scored {
            ScorerRef::Model(ModelScorer { view, .. }) | ScorerRef::Served(ServedScorer { view, .. }) => view,
            ScorerRef::Composed(_) => None,
        };
        view.map(|view| &self.views[view])
    }

    pub fn server<'s>(&self, scorer: ServedScorer, servers: &'s Servers) -> &'s Server {
        servers.get(&self.servers[scorer.server])
    }

    /// Rows of an LM head that belong to tokens of the student.
    pub fn entries(&self) -> i64 {
        self.entries
    }

    /// The view that a model reads in place of the prompts, if any.
    pub fn view(&self, scorer: ModelScorer) -> Option<&View> {
        scorer.view.map(|view| &self.views[view])
    }

    pub fn composition(&self, index: usize) -> &Composition {
        &self.compositions[index]
    }

    pub fn of_model(&self, id: ModelId) -> ModelRef {
        ModelRef::Frozen(self.of_model[&id])
    }

    /// A model with all its layers, for generation. `None` for the student itself.
    pub fn decoder(&self, model_ref: ModelRef) -> Option<Rc<Decoder>> {
        let ModelRef::Frozen(index) = model_ref else { return self.learning(model_ref) };
        if let Some(FrozenDecoder::Held(decoder)) = self.resident.borrow().get(&index) {
            return Some(decoder.clone());
        }
        self.make_room(index);
        let make = if self.keeps_all { Decoder::frozen } else { Decoder::by_layer };
        let decoder = Rc::new(make(&self.frozen[index], self.place, self.kind));
        self.resident.borrow_mut().insert(index, FrozenDecoder::Held(decoder.clone()));
        Some(decoder)
    }

    /// A model for scoring: layer by layer if it may not stay in memory. `None` for the student itself.
    pub fn scoring_decoder(&self, model_ref: ModelRef) -> Option<FrozenDecoder> {
        let index = match model_ref {
            ModelRef::Frozen(index) if !self.keeps_all => index,
            _ => return self.decoder(model_ref).map(FrozenDecoder::Held),
        };
        if let Some(known) = self.resident.borrow().get(&index) {
            return Some(known.clone());
        }
        self.make_room(index);
        let streamed = StreamedDecoder::new(&self.frozen[index], self.place, self.kind);
        let decoder = FrozenDecoder::Streamed(Rc::new(streamed));
        self.resident.borrow_mut().insert(index, decoder.clone());
        Some(decoder)
    }

    /// A copy of the student, or another model that the stage trains.
    fn learning(&self, model_ref: ModelRef) -> Option<Rc<Decoder>> {
        match model_ref {
            ModelRef::Copy(index) => Some(self.copies[index].decoder.clone()),
            ModelRef::Learner(index) => Some(self.learners[index].clone()),
            ModelRef::Student | ModelRef::Frozen(_) => None,
        }
    }

    /// Frees memory before a frozen model is loaded, so that two are never in memory at once.
    fn make_room(&self, index: usize) {
        self.release();
        self.lm_heads.borrow_mut().remove(&index);
    }

    /// Frees models that may not stay, before the student's own forward and backward pass.
    pub fn release(&self) {
        if !self.keeps_all {
            self.resident.borrow_mut().clear();
        }
    }

    /// The id and configuration of a frozen model; `None` for a model that changes while the student learns.
    pub fn frozen(&self, model_ref: ModelRef) -> Option<(ModelId, &Config)> {
        let ModelRef::Frozen(index) = model_ref else { return None };
        // Models with equal weights are one model: the smallest id stands for all.
        let id = self.of_model.iter().filter(|(_, known)| **known == index).map(|(id, _)| *id).min()?;
        Some((id, &self.frozen[index].config))
    }

    /// The softcap of a model's logits; that of the student and its copies is `student`'s.
    pub fn softcap(&self, model_ref: ModelRef, student: &Decoder) -> Option<f64> {
        match model_ref {
            ModelRef::Frozen(index) => self.frozen[index].config.logit_softcap,
            ModelRef::Learner(index) => self.learners[index].config.logit_softcap,
            ModelRef::Student | ModelRef::Copy(_) => student.config.logit_softcap,
        }
    }

    /// The scalar head of a model beside the student, where it has one.
    pub fn scalar_head(&self, model_ref: ModelRef, student: &Decoder) -> Option<Tensor> {
        let of = |decoder: &Decoder| decoder.scalar_head().map(Tensor::detach);
        match model_ref {
            ModelRef::Student => of(student),
            ModelRef::Copy(index) => of(&self.copies[index].decoder),
            ModelRef::Learner(index) => of(&self.learners[index]),
            ModelRef::Frozen(index) => self.frozen[index].scalar_head(self.kind, self.place.device),
        }
    }

    /// The rows of a model's LM head for the student's tokens, or for its own if it is read in them. `scored`
    /// is the model if its layers are loaded. The LM head of one that may not stay is multiplied from its
    /// file, or fetched when it is needed; `only`: no other is loaded before, so a loaded LM head is used.
    pub fn lm_head(&self, model_ref: ModelRef, scored: Option<ScoringDecoder>, only: bool) -> LmHead {
        let ModelRef::Frozen(index) = model_ref else {
            let lm_head = scored.expect("the student and its copies are in memory").lm_head();
            return LmHead::Held(first_rows(lm_head, self.entries));
        };
        let (weights, kind, device) = (self.frozen[index].clone(), self.kind, self.place.device);
        let own = self.other_tokenizers.keys().any(|(of, _)| *of == index);
        let entries = (weights.tokenizer.vocabulary() as i64).min(if own { i64::MAX } else { self.entries });
        if !self.keeps_all
            && let Some(stored) =
                weights.lm_head_in_file().and_then(|stored| stored.narrow(0, entries as usize))
            && let Some(in_file) = LmHeadInFile::new(self.place, kind, stored)
        {
            return LmHead::InFile(in_file);
        }
        let fetch = move || weights.lm_head(kind, device).narrow(0, 0, entries);
        if !self.keeps_all {
            let at_hand = scored.filter(|_| only).map(|scored| first_rows(scored.lm_head(), entries));
            return LmHead::Fetched(LazyTensor::new(fetch, at_hand));
        }
        match scored.or(self.resident.borrow().get(&index).map(FrozenDecoder::scoring)) {
            Some(scored) => LmHead::Held(first_rows(scored.lm_head(), entries)),
            None => {
                LmHead::Held(self.lm_heads.borrow_mut().entry(index).or_insert_with(fetch).shallow_clone())
            }
        }
    }

    /// The rows that belong to tokens of the LM head of the student or of a copy of it.
    pub fn compared(&self, decoder: &Decoder) -> Tensor {
        first_rows(decoder.lm_head(), self.entries)
    }

    /// Updates the copies after an update of the student. `done` is the number of updates so far, `single`
    /// returns the student's weights in single precision.
    pub fn follow(&mut self, student: &Decoder, single: impl Fn() -> Tensor, done: u32) {
        let _guard = no_grad_guard();
        for copy in &mut self.copies {
            let mut own = copy.decoder.flat().shallow_clone();
            match copy.of {
                StudentCopy::Average { rate } => {
                    let average = copy.average.as_mut().unwrap_or(&mut own);
                    let _ = average.lerp_(&single(), 1.0 - rate);
                    if let Some(average) = &copy.average {
                        own.copy_(average);
                    }
                }
                StudentCopy::Every { steps } if done.is_multiple_of(steps.max(1)) => {
                    own.copy_(student.flat())
                }
                StudentCopy::Every { .. } | StudentCopy::Current => {}
            }
        }
    }

    /// Adds the copies of the student to a state. Frozen models are not part of it.
    pub fn state(&self, tensors: &mut StateTensors) {
        for (index, copy) in self.copies.iter().enumerate() {
            tensors.put(format!("copy.{index}"), copy.decoder.flat());
            if let Some(average) = &copy.average {
                tensors.put(format!("copy.{index}.average"), average);
            }
        }
    }

    pub fn restore(&self, tensors: &StateTensors) -> Result<(), String> {
        let mut copies = self.copies.iter().enumerate();
        copies.try_for_each(|(index, copy)| {
            tensors.restore(&format!("copy.{index}"), copy.decoder.flat())?;
            copy.average
                .as_ref()
                .map_or(Ok(()), |average| tensors.restore(&format!("copy.{index}.average"), average))
        })
    }

    /// Whether the scores of a role for a given completion change while the student learns.
    pub fn moves(&self, role: Role) -> bool {
        let moves = |scored: &ScorerRef| {
            let fixed = self.sees(*scored).is_none_or(View::is_fixed);
            !fixed || scored.model().is_some_and(|scorer| !matches!(scorer.model_ref, ModelRef::Frozen(_)))
        };
        self.of_role(role).iter().flatten().any(moves)
    }
}

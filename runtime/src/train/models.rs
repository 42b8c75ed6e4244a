//! The models beside the student: scorers, and whoever writes completions.
//!
//! One of them at a time is in memory, unless all together are small: it scores what is its own, a layer at a
//! time, and makes room for the next, or for the student's gradient. So memory does not grow with their
//! number, nor with their depth unless they write. Weights that are equal are one model, whatever it is
//! called.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use mopd_compiler::plan::{Composition, ModelId, Role, Served, StudentCopy, Teacher, TeacherChoice, View};
use tch::{Kind, Tensor, no_grad_guard};

use super::Stage;
use super::other_tokenizer::OtherTokenizer;
use super::route::Section;
use super::vocabulary::{Fetched, LmHead};
use crate::failure::Result;
use crate::machine::place::Place;
use crate::model::{Config, Decoder, ScoringDecoder, StreamedDecoder, Weights};
use crate::served::Server;
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
    /// Another model that learns in the stage, as it is now.
    Learner(usize),
}

/// A model, and what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModelScorer {
    pub model_ref: ModelRef,
    /// An index into the views: what they read in place of the prompts.
    pub view: Option<usize>,
    /// It has another tokenizer than the student, and reads the text.
    pub own_tokens: bool,
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
    /// None where no model alone is scored.
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
    /// It only scores, and was not to stay.
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

/// Whether models of so many parameters in all stay in memory together. Others are read anew for every step,
/// which on the CPU takes far less time than a step of theirs.
pub fn fits_in_memory(place: Place, parameters: usize) -> bool {
    parameters <= place.sizes.resident
}

pub struct Models {
    /// Of the stage's served teachers, each once.
    servers: Vec<Served>,
    place: Place,
    kind: Kind,
    frozen: Vec<Arc<Weights>>,
    of_model: HashMap<ModelId, usize>,
    /// All, or the one that was needed last.
    resident: RefCell<HashMap<usize, FrozenDecoder>>,
    /// LM heads of models that may stay, but of which nothing else was needed so far.
    lm_heads: RefCell<HashMap<usize, Tensor>>,
    keeps_all: bool,
    /// Rows of the student's LM head that tokens have. Some checkpoints are padded beyond the tokenizer's
    /// ids, and not alike; padding is never drawn, and no probability is given to it.
    entries: i64,
    /// By index into the frozen models: those with another tokenizer, beside the student's.
    other_tokenizers: HashMap<usize, OtherTokenizer>,
    copies: Vec<Copy>,
    /// All models that learn in the stage, in their order.
    learners: Vec<Rc<Decoder>>,
    compositions: Vec<Composition>,
    views: Vec<View>,
    /// By scorer, then by section.
    scorers: Vec<Vec<Option<ScorerRef>>>,
}

/// The rows of an LM head that tokens have.
fn first_rows(lm_head: &Tensor, entries: i64) -> Tensor {
    lm_head.detach().narrow(0, 0, entries)
}

/// The place of an element in a list of different ones, where it is put if it was not there.
fn place<T: Clone + PartialEq>(list: &mut Vec<T>, element: &T) -> usize {
    list.iter().position(|known| known == element).unwrap_or_else(|| {
        list.push(element.clone());
        list.len() - 1
    })
}

/// The student as it was, or as it was on average.
struct Copy {
    of: StudentCopy,
    decoder: Rc<Decoder>,
    /// Of an average that computes in half precision: in single, because half could not hold what one step
    /// adds.
    average: Option<Tensor>,
}

impl Models {
    /// No model is loaded before it is needed.
    ///
    /// # Errors
    /// If the vocabulary of a teacher with another tokenizer can't be compared with the student's.
    pub fn new(stage: &Stage) -> Result<Models> {
        let mut frozen: Vec<Arc<Weights>> = Vec::new();
        let mut of_model = HashMap::new();
        // Those whose change chooses elements are looked at once, and ask for no room.
        let compared: HashSet<ModelId> = stage.train.trainable.models().collect();
        let asked: HashSet<ModelId> = stage.train.asked().chain([stage.train.start]).collect();
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
        let mut copies: Vec<Copy> = Vec::new();
        let mut compositions: Vec<Composition> = Vec::new();
        let mut views: Vec<View> = Vec::new();
        let mut servers: Vec<Served> = Vec::new();
        let mut other_tokenizers = HashMap::new();
        let mut scored = |name: &str, teacher: &Teacher, sees: &Option<View>, own_tokens: bool| {
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
                        copies.push(Copy { of: *kind, decoder, average });
                        copies.len() - 1
                    }))
                }
            };
            if let (true, ModelRef::Frozen(index)) = (own_tokens, model_ref)
                && let Entry::Vacant(place) = other_tokenizers.entry(index)
            {
                let (student, teacher) = (&stage.start.tokenizer, &frozen[index]);
                place.insert(OtherTokenizer::new(student, teacher, &format!("the teacher `{name}`"))?);
            }
            let view = sees.as_ref().map(|view| place(&mut views, view));
            Ok(ScorerRef::Model(ModelScorer { model_ref, view, own_tokens }))
        };
        let sections = stage.sections();
        let routed = |section: &Section| {
            let routed = section.teacher?;
            Some(scored(&routed.name, &routed.weights, &routed.sees, routed.own_tokens))
        };
        let routed: Vec<Option<ScorerRef>> =
            sections.iter().map(routed).map(Option::transpose).collect::<Result<_>>()?;
        let beside = stage.sources.iter().map(|source| source.scorers.len()).max().unwrap_or(0);
        let mut scorers = vec![routed];
        for index in 0..beside {
            let mut own = |section: &Section| {
                let choice: &TeacherChoice = stage.sources[section.source].scorers.get(index)?.as_ref()?;
                Some(scored(&choice.name, &choice.teacher, &choice.sees, choice.own_tokens))
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

    /// The same with the models that learn in the stage.
    pub fn beside(self, learners: &[Rc<Decoder>]) -> Models {
        Models { learners: learners.to_vec(), ..self }
    }

    /// As where the models are too large to stay.
    #[cfg(test)]
    pub fn one_at_a_time(stage: &Stage) -> Models {
        Models { keeps_all: false, ..Models::new(stage).unwrap() }
    }

    /// How many frozen models are in memory, layers and all.
    #[cfg(test)]
    pub fn loaded(&self) -> usize {
        self.resident.borrow().len()
    }

    /// Who has a role for the prompts of each section.
    pub fn of_role(&self, role: Role) -> &[Option<ScorerRef>] {
        match role {
            Role::Scorer(id) => &self.scorers[id.0 as usize],
            Role::Student | Role::Sampler => {
                unreachable!("the {} is no model beside the student", role.name())
            }
        }
    }

    /// The model that has a role for the prompts of a section; none where nobody has, or no model alone.
    #[cfg(test)]
    pub fn model(&self, role: Role, section: usize) -> Option<ModelRef> {
        Some(self.of_role(role)[section]?.model()?.model_ref)
    }

    /// The vocabulary of a model with another tokenizer, beside the student's.
    pub fn other_tokenizer(
        &self,
        ModelScorer { model_ref, own_tokens, .. }: ModelScorer,
    ) -> Option<&OtherTokenizer> {
        let ModelRef::Frozen(index) = model_ref else { return None };
        self.other_tokenizers.get(&index).filter(|_| own_tokens)
    }

    /// Whether a model that has the role has another tokenizer.
    pub fn own_tokens(&self, role: Role) -> bool {
        let scorers = self.of_role(role).iter().flatten().filter_map(|scored| scored.model());
        scorers.into_iter().any(|scorer| scorer.own_tokens)
    }

    /// What a scorer reads in place of the prompts; nothing of one that is made of others.
    pub fn sees(&self, scored: ScorerRef) -> Option<&View> {
        let view = match scored {
            ScorerRef::Model(ModelScorer { view, .. }) | ScorerRef::Served(ServedScorer { view, .. }) => view,
            ScorerRef::Composed(_) => None,
        };
        view.map(|view| &self.views[view])
    }

    pub fn server<'s>(&self, scorer: ServedScorer, stage: &Stage<'s>) -> &'s Server {
        stage.servers.get(&self.servers[scorer.server])
    }

    /// Rows of an LM head that tokens of the student have.
    pub fn entries(&self) -> i64 {
        self.entries
    }

    /// What a model reads in place of the prompts.
    pub fn view(&self, scorer: ModelScorer) -> Option<&View> {
        scorer.view.map(|view| &self.views[view])
    }

    pub fn composition(&self, index: usize) -> &Composition {
        &self.compositions[index]
    }

    pub fn of_model(&self, id: ModelId) -> ModelRef {
        ModelRef::Frozen(self.of_model[&id])
    }

    /// A model with all its layers, for one that writes. None for the student itself.
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

    /// A model for one that scores: of one that may not stay, a layer at a time. None for the student itself.
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

    /// A copy of the student, or another model that learns.
    fn learning(&self, model_ref: ModelRef) -> Option<Rc<Decoder>> {
        match model_ref {
            ModelRef::Copy(index) => Some(self.copies[index].decoder.clone()),
            ModelRef::Learner(index) => Some(self.learners[index].clone()),
            ModelRef::Student | ModelRef::Frozen(_) => None,
        }
    }

    /// Before a frozen model is loaded, or two would be in memory at once.
    fn make_room(&self, index: usize) {
        self.let_go();
        self.lm_heads.borrow_mut().remove(&index);
    }

    /// Makes room for the student's own forward and backward pass.
    pub fn let_go(&self) {
        if !self.keeps_all {
            self.resident.borrow_mut().clear();
        }
    }

    /// One that does not change while the student learns, and its configuration.
    pub fn frozen(&self, model_ref: ModelRef) -> Option<(ModelId, &Config)> {
        let ModelRef::Frozen(index) = model_ref else { return None };
        // Models of one content are one, by whatever name: the first.
        let id = self.of_model.iter().filter(|(_, known)| **known == index).map(|(id, _)| *id).min()?;
        Some((id, &self.frozen[index].config))
    }

    /// What bounds a model's logits; `student` bounds those of the student and its copies.
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

    /// The part of a model's LM head that is compared with others', where the model was needed otherwise
    /// (`scored`) or not. Of a model that may not stay it is fetched when it is needed; `only` where nothing
    /// else is loaded before that: then what is there is taken.
    pub fn lm_head(&self, model_ref: ModelRef, scored: Option<ScoringDecoder>, only: bool) -> LmHead {
        let ModelRef::Frozen(index) = model_ref else {
            let lm_head = scored.expect("the student and its copies are in memory").lm_head();
            return LmHead::Held(first_rows(lm_head, self.entries));
        };
        let (weights, kind, device) = (self.frozen[index].clone(), self.kind, self.place.device);
        let entries = weights.tokenizer.vocabulary() as i64;
        let fetch = move || weights.lm_head(kind, device).narrow(0, 0, entries);
        if !self.keeps_all {
            let at_hand = scored.filter(|_| only).map(|scored| first_rows(scored.lm_head(), entries));
            return LmHead::Fetched(Fetched::new(fetch, at_hand));
        }
        match scored.or(self.resident.borrow().get(&index).map(FrozenDecoder::scoring)) {
            Some(scored) => LmHead::Held(first_rows(scored.lm_head(), entries)),
            None => {
                LmHead::Held(self.lm_heads.borrow_mut().entry(index).or_insert_with(fetch).shallow_clone())
            }
        }
    }

    /// The part of the LM head of the student, or of a copy of it, that is compared with others'.
    pub fn compared(&self, decoder: &Decoder) -> Tensor {
        first_rows(decoder.lm_head(), self.entries)
    }

    /// Follows the student after an update; `done` is the number of updates so far, `single` answers the
    /// student's numbers in single precision.
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

    /// The copies of the student, under names. Whoever is frozen does not change.
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

    /// Whether what the models that have a role say of a completion changes while the student learns.
    pub fn moves(&self, role: Role) -> bool {
        let moves = |scored: &ScorerRef| {
            let fixed = self.sees(*scored).is_none_or(View::is_fixed);
            !fixed || scored.model().is_some_and(|scorer| !matches!(scorer.model_ref, ModelRef::Frozen(_)))
        };
        self.of_role(role).iter().flatten().any(moves)
    }
}

//! Constructors of models: dispatch by name, and the stages that train nothing (initialise, load, merge).

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::Unit;
use mopd_experiment::{
    Architecture, Family, Merge, MergeMethod, ModelId, Pretrained, PretrainedSource, Recipe, Stage,
    TokenizerSpec,
};

use crate::check::Checker;
use crate::check::builtins::constructors::{ConstructorCall, Llama, Merge as MergeArguments};
use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::types::{EndTokens, Fraction, Text};
use crate::check::builtins::vocabulary::{DecoderBlock, MergeBlock};
use crate::check::stages::lineage::tokenizer_text;
use crate::check::stages::settings::{BlockSettings, undecided};
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

impl Checker {
    pub(in crate::check) fn construct(&mut self, call: ConstructorCall, env: &Env) -> Option<ModelId> {
        let written = call.written();
        let stage = match call {
            ConstructorCall::Llama(given) => self.decoder(Family::Llama, given, env),
            ConstructorCall::Qwen2(given) => self.decoder(Family::Qwen2, given, env),
            ConstructorCall::Qwen3(given) => self.decoder(Family::Qwen3, given, env),
            ConstructorCall::Gemma(given) => self.decoder(Family::Gemma, given, env),
            ConstructorCall::HuggingFace(given) => {
                let name = self.stored(written, given.name, env)?;
                let revision = self.read(given.revision, env)?;
                self.loaded(PretrainedSource::HuggingFace { name, revision }, given.end_tokens, env)
            }
            ConstructorCall::Gguf(given) => {
                let file = self.stored(written, given.file, env)?;
                self.loaded(PretrainedSource::Gguf { file }, given.end_tokens, env)
            }
            ConstructorCall::Checkpoint(given) => {
                let folder = self.stored(written, given.folder, env)?;
                self.loaded(PretrainedSource::Checkpoint { folder }, given.end_tokens, env)
            }
            ConstructorCall::Merge(given) => self.merge(given, env).map(Stage::Merge),
            ConstructorCall::Sft(given) => {
                self.training(Recipe::Sft, written, given.start, Some(given.on.expr), env)
            }
            ConstructorCall::Grpo(given) => {
                self.training(Recipe::Grpo, written, given.start, Some(given.on.expr), env)
            }
            ConstructorCall::Dpo(given) => {
                self.training(Recipe::Dpo, written, given.start, Some(given.on.expr), env)
            }
            ConstructorCall::Distill(given) => {
                self.training(Recipe::Distill, written, given.start, None, env)
            }
            ConstructorCall::Train(_) => return self.joint(written.span, written.block, env),
        };
        Some(self.declare_stage(written.builtin.name, stage?, written.span, env))
    }

    /// Declares a model, named after the author's binding, or after the stage where there is none.
    pub(in crate::check) fn declare_stage(
        &mut self,
        stage_name: &str,
        stage: Stage,
        span: Span,
        env: &Env,
    ) -> ModelId {
        let name = if env.model_name.is_empty() { stage_name } else { &env.model_name };
        self.declare_model(name, stage, span)
    }

    /// The architecture of a model's weights, or `None` where they are loaded or a parameter.
    pub(in crate::check) fn architecture(&self, model: ModelId) -> Option<&Architecture> {
        match &self.model(self.first_weights(model)).stage {
            Stage::Initialise(architecture) => Some(architecture),
            _ => None,
        }
    }

    /// The model at the start of this one's chain of stages: random, loaded or a parameter. Shapes are equal.
    pub(in crate::check) fn first_weights(&self, model: ModelId) -> ModelId {
        match &self.model(model).stage {
            Stage::Initialise(_) | Stage::Load(_) | Stage::Parameter => model,
            Stage::Train(train) => self.first_weights(train.start),
            Stage::Merge(merge) => self.first_weights(merge.models[0]),
            Stage::Joint(joint) => self.first_weights(joint.members[0].start),
            Stage::Member { joint, member } => match &self.model(*joint).stage {
                Stage::Joint(joint) => self.first_weights(joint.members[*member].start),
                _ => model,
            },
        }
    }

    fn loaded(
        &mut self,
        source: PretrainedSource,
        end_tokens: Option<Arg<EndTokens>>,
        env: &Env,
    ) -> Option<Stage> {
        let end_tokens = self.read(end_tokens, env)?.unwrap_or_default();
        Some(Stage::Load(Pretrained { source, end_tokens }))
    }

    /// The text that says where a model is stored: `hf("Qwen/Qwen3-0.6B")`, `gguf("file.gguf")`,
    /// `checkpoint("runs/first/student")`.
    fn stored(&mut self, call: Call, given: Arg<Text>, env: &Env) -> Option<String> {
        if let Some(block) = call.block {
            let text = format!("`{}` takes no settings in braces", call.builtin.name);
            self.report(Diagnostic::error(Code::TypeMismatch, block.span, text).help(call.builtin.usage));
            return None;
        }
        let stored = self.read(given, env)?;
        if stored.trim().is_empty() {
            self.report(Diagnostic::error(Code::OutOfRange, given.expr.span, "this name is empty"));
            return None;
        }
        Some(stored)
    }

    pub(in crate::check) fn tokenizer(&mut self, expr: &Expr, env: &Env) -> Option<TokenizerSpec> {
        // `"bytes"` is the word in quotes, not a file of that name.
        if matches!(&expr.kind, ExprKind::Text(path) if path != "bytes") {
            return self.text(expr, "tokenizer", env).map(TokenizerSpec::File);
        }
        self.word(expr, "a tokenizer", &[("bytes", TokenizerSpec::Bytes)])
    }

    /// `llama { ... }` and the other decoder families.
    fn decoder(&mut self, family: Family, given: Llama, env: &Env) -> Option<Stage> {
        let Call { block, span, .. } = given.call;
        let (settings, given) = self.block::<DecoderBlock>(block, family.name(), span);
        self.keep_marks(&settings, &env.model_name);
        let (layers, width) = (self.read(given.layers, env), self.read(given.width, env));
        let (heads, context) = (self.read(given.heads, env), self.read(given.context, env));
        let tokenizer = self.read(given.tokenizer, env);
        let key_value_heads = given.key_value_heads.map(|heads| self.read(heads, env));
        let hidden = given.hidden.map(|hidden| self.read(hidden, env));
        let tied = self.read(given.tied, env);
        let (rope_theta, norm_epsilon) =
            (self.read(given.rope_theta, env), self.read(given.norm_epsilon, env));
        // "Small init" (arXiv:1910.05895, section 2.2): 0.02 at width 1,000, and enough for narrow models to
        // learn at all.
        let small = (2.0 / (5.0 * f64::from(width.unwrap_or(1_000)))).sqrt();
        let initial_deviation = self.read(given.initial_deviation, env).map(|given| given.unwrap_or(small));
        let (width, heads) = (width?, heads?);
        let key_value_heads = key_value_heads.unwrap_or(Some(heads))?;
        let multiple = |checker: &mut Checker, key: &str, text: String| {
            let place = settings.key_span(key).unwrap_or(span);
            checker.report(Diagnostic::error(Code::OutOfRange, place, text));
        };
        if width % (2 * heads) != 0 {
            multiple(
                self,
                "width",
                format!("the width {width} does not divide into {heads} heads of even size"),
            );
            return None;
        }
        if heads % key_value_heads != 0 {
            multiple(
                self,
                "key_value_heads",
                format!("{heads} heads can't share {key_value_heads} key-value heads evenly"),
            );
            return None;
        }
        Some(Stage::Initialise(Architecture {
            family,
            layers: layers?,
            width,
            heads,
            key_value_heads,
            // The usual two thirds of four times the width, rounded up to a multiple of 32.
            intermediate_size: hidden.unwrap_or(Some((width * 8).div_ceil(3).div_ceil(32) * 32))?,
            context: context?,
            tokenizer: tokenizer?,
            tied: tied?,
            rope_theta: rope_theta?,
            norm_epsilon: norm_epsilon?,
            initial_deviation: initial_deviation?,
        }))
    }

    pub(in crate::check) fn truth_setting(&mut self, expr: &Expr, key: &str, env: &Env) -> Option<bool> {
        match self.evaluate(expr, env) {
            Value::Formula(formula) if formula.unit() == Unit::Bool && formula.constant().is_some() => {
                Some(formula.constant() == Some(1.0))
            }
            value if undecided(&value) => None,
            other => {
                self.wrong_kind(expr.span, &format!("`{key}` is `true` or `false`"), &other);
                None
            }
        }
    }

    fn merge(&mut self, given: MergeArguments, env: &Env) -> Option<Merge> {
        let Call { block, span, .. } = given.call;
        let (settings, block) = self.block::<MergeBlock>(block, "merge", span);
        self.keep_marks(&settings, &env.model_name);
        let models_expr = given.models.expr;
        let base_place = given.base.as_ref().map_or(span, |base| base.expr.span);
        let models = self.read(given.models, env);
        let base = self.read(given.base, env)?;
        let method = self.merge_method(&settings, block, span, env)?;
        match (&method, base) {
            (MergeMethod::Average, Some(_)) => {
                let text = "`average` uses no differences, so it has no use for a `base`";
                self.report(
                    Diagnostic::error(Code::UnusedSetting, base_place, text)
                        .help("remove it, or write `method = task_arithmetic` with a `scale`"),
                );
                return None;
            }
            (MergeMethod::Average, None) | (_, Some(_)) => {}
            (_, None) => {
                let text = format!("`{}` needs the `base` that differences are taken from", method.name());
                self.report(
                    Diagnostic::error(Code::MissingArgument, span, text)
                        .help("write `merge(experts, base: start) { ... }`"),
                );
                return None;
            }
        }
        let models = models?;
        if let Some(again) = (1..models.len()).find(|at| models[..*at].contains(&models[*at])) {
            self.report_twice(models_expr, &models, again);
            return None;
        }
        for other in models.iter().chain(&base) {
            if let Some(text) = self.unlike(models[0], *other) {
                self.report(
                    Diagnostic::error(Code::TypeMismatch, span, text)
                        .help("only weights of one architecture and one tokenizer can be merged"),
                );
                return None;
            }
        }
        Some(Merge { method, base, models })
    }

    /// The method of a merge, with its numbers.
    fn merge_method(
        &mut self,
        settings: &BlockSettings,
        given: MergeBlock,
        span: Span,
        env: &Env,
    ) -> Option<MergeMethod> {
        let method = self.read(given.method, env)?;
        let known: &[&'static str] = match method {
            "average" => &[],
            "task_arithmetic" => &["scale"],
            "ties" => &["scale", "density"],
            _ => &["scale", "drop"],
        };
        for key in ["scale", "density", "drop"] {
            if let Some(place) = settings.key_span(key).filter(|_| !known.contains(&key)) {
                self.report(Diagnostic::error(Code::UnknownKey, place, format!("`{method}` has no `{key}`")));
                return None;
            }
        }
        // Which of them a merge needs depends on its method.
        known.iter().for_each(|key| self.report_if_missing(settings, key));
        let out_of_range = |checker: &mut Checker, given: Option<Arg<Fraction>>, text: &str| {
            let place = given.map_or(span, |given| given.expr.span);
            checker.report(Diagnostic::error(Code::OutOfRange, place, text));
        };
        let scale = self.read(given.scale, env)?;
        let (density, drop) = (self.read(given.density, env)?, self.read(given.drop, env)?);
        Some(match method {
            "average" => MergeMethod::Average,
            "task_arithmetic" => MergeMethod::TaskArithmetic { scale: scale? },
            "ties" => {
                let (scale, density) = (scale?, density?);
                if density <= 0.0 {
                    let text = "`density` must be above 0: nothing would be kept";
                    out_of_range(self, given.density, text);
                    return None;
                }
                MergeMethod::Ties { scale, density }
            }
            _ => {
                let (scale, drop) = (scale?, drop?);
                if drop >= 1.0 {
                    out_of_range(self, given.drop, "`drop` must be below 1: nothing would be left");
                    return None;
                }
                MergeMethod::Dare { scale, drop }
            }
        })
    }

    /// Reports a model that is listed twice in a merge, where it would count twice.
    fn report_twice(&mut self, list: &Expr, models: &[ModelId], again: usize) {
        let model = models[again];
        let text = format!("`{}` is in this list twice, and would count twice", self.model(model).name);
        let place = |at: Option<usize>| match &list.kind {
            ExprKind::List(items) => at.and_then(|at| items.get(at)).map(|item| item.span),
            _ => None,
        };
        let first = place(models.iter().position(|known| *known == model));
        let diagnostic =
            Diagnostic::error(Code::DuplicateName, place(Some(again)).unwrap_or(list.span), text);
        let diagnostic = match first {
            Some(first) => diagnostic.label("again here").note(first, "first here"),
            None => diagnostic,
        };
        self.report(diagnostic.help("name each model once"));
    }

    /// Why two models' weights do not correspond element by element, or `None` where they do or where the
    /// file does not tell: the shape and tokenizer of loaded weights are known only from their files.
    pub(in crate::check) fn unlike(&self, one: ModelId, other: ModelId) -> Option<String> {
        let (shape, others) = (self.architecture(one)?, self.architecture(other)?);
        let [one, other] = [one, other].map(|model| &self.model(model).name);
        if shape.tokenizer != others.tokenizer {
            let tokenizers = [shape, others].map(|shape| tokenizer_text(&shape.tokenizer));
            let [own, theirs] = tokenizers;
            return Some(format!("`{one}` and `{other}` have different tokenizers: {own} and {theirs}"));
        }
        // The standard deviation of the random initialisation says nothing about the shape.
        let others = Architecture { initial_deviation: shape.initial_deviation, ..others.clone() };
        (*shape != others).then(|| format!("`{one}` and `{other}` have different shapes"))
    }

    /// The models of a family or a list.
    pub(in crate::check) fn models_of(&mut self, expr: &Expr, env: &Env) -> Option<Vec<ModelId>> {
        let values = match self.evaluate(expr, env) {
            Value::Family(family) => family.members.iter().map(|(_, value)| value.clone()).collect(),
            Value::List(values) => values,
            other => {
                self.wrong_kind(expr.span, "expected several models: a family or a list", &other);
                return None;
            }
        };
        let mut models = Vec::new();
        for value in values {
            match value {
                Value::Model(model) => models.push(model),
                other => {
                    self.wrong_kind(expr.span, "every element must be a model", &other);
                    return None;
                }
            }
        }
        if models.is_empty() {
            self.report(Diagnostic::error(Code::OutOfRange, expr.span, "this list of models is empty"));
            return None;
        }
        Some(models)
    }
}

//! The registry of diagnostic codes, one per line, for `mopd explain`, the book and the tests. The page of a
//! code is `lang/codes/NAME.md`.

macro_rules! codes {
    ($($variant:ident = $name:literal, $summary:literal;)*) => {
        /// A stable name for one kind of diagnostic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($variant),* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// `unit-mismatch`
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name),* }
            }

            /// What went wrong, in one line.
            pub fn summary(self) -> &'static str {
                match self { $(Code::$variant => $summary),* }
            }

            /// The page that `mopd explain` prints, in Markdown.
            pub fn page(self) -> &'static str {
                match self { $(Code::$variant => include_str!(concat!("../../codes/", $name, ".md"))),* }
            }
        }
    };
}

impl Code {
    /// Whether it is only found where files are read.
    pub fn needs_files(self) -> bool {
        matches!(self, Code::MissingFile | Code::DataMismatch)
    }

    /// Whether it says that something is not used.
    pub fn is_of_unused(self) -> bool {
        self.name().starts_with("unused-")
    }

    /// Whether the check in an editor can't report it, because it needs the gradient audit, the files, or the
    /// whole experiment.
    pub fn needs_audit(self) -> bool {
        matches!(
            self,
            Code::MissingFile
                | Code::DataMismatch
                | Code::OtherGradient
                | Code::ZeroGradient
                | Code::WrongSign
                | Code::NoTeacherSignal
                | Code::NeverHolds
                | Code::NotFinite
                | Code::StaleSignal
                | Code::UnfinishedSchedule
                | Code::UnusedModel
        )
    }
}

codes! {
    Syntax = "syntax", "the text does not follow the grammar";
    ForeignSyntax = "foreign-syntax", "syntax of Python, YAML or shell that mopd writes differently";
    NestingTooDeep = "nesting-too-deep", "brackets, calls or definitions are nested too deeply";
    NotSupported = "not-supported-yet", "a construct of the language that this version can't run";
    UnknownName = "unknown-name", "a name that is not declared";
    UnknownKey = "unknown-key", "a setting that this block does not have";
    UnknownModule = "unknown-module", "an import of a module that does not exist";
    UnknownField = "unknown-field", "a role or value without this part";
    UnknownArgument = "unknown-argument", "an argument that this function does not have";
    UnknownValue = "unknown-value", "a value that this setting does not have";
    MissingKey = "missing-key", "a required setting is missing";
    MissingArgument = "missing-argument", "a call lacks an argument";
    DuplicateName = "duplicate-name", "one name declared twice";
    DuplicateKey = "duplicate-key", "one setting written twice";
    NotPublic = "not-public", "an import of an item that is not public";
    Cycle = "cycle", "a definition that depends on itself";
    TypeMismatch = "type-mismatch", "a value of one type where another is expected";
    UnitMismatch = "unit-mismatch", "two numbers that measure different things are mixed";
    AxisMismatch = "axis-mismatch", "a fine-grained number where a coarser one is needed";
    OutOfRange = "out-of-range", "a number outside its valid range";
    LiveOutsideTerm = "live-outside-term", "`live` where no gradient can flow";
    NothingLive = "nothing-live", "a term that carries no gradient";
    NotDifferentiable = "not-differentiable", "`live` inside an operation without a derivative";
    MissingReduce = "missing-reduce", "an objective that does not say how tokens and sequences are averaged";
    MissingTerm = "missing-term", "an objective without a term";
    GroupOfOne = "group-of-one", "a statistic over samples of one prompt, with a single sample";
    UnroutedDomain = "unrouted-domain", "a domain without a teacher in the route";
    DomainRoutedTwice = "domain-routed-twice", "a route arm that can never be reached";
    UnusedTeacher = "unused-teacher", "a teacher that no route chooses";
    UnusedDomain = "unused-domain", "a domain that no model is trained or compared on";
    MissingElse = "missing-else", "a `match` without an `else`";
    UnreachableArm = "unreachable-arm", "an arm of a `match` that can never be chosen";
    ZeroGradient = "zero-gradient", "a term without gradient";
    OtherGradient = "other-gradient", "a loss whose value is one divergence and whose gradient is another's";
    WrongSign = "wrong-sign", "a term with the wrong sign: it moves the student away from its target";
    NoTeacherSignal = "no-teacher-signal", "a term that reads a teacher and does not learn from it";
    NeverHolds = "never-holds", "a condition that can never hold";
    NotFinite = "not-finite", "a term whose value or gradient is infinite or NaN";
    NotADivergence = "not-a-divergence", "a generator that is not convex, or not 0 where both sides agree";
    ScheduleRange = "schedule-range", "a number that leaves its valid range during the run";
    ShareSum = "share-sum", "the domains' shares do not add up to 1";
    NoRollout = "no-rollout", "a signal of rollouts is read where the tokens come from data";
    NoTeacher = "no-teacher", "a teacher is read, but no route chooses one";
    MissingExperiment = "missing-experiment", "a file without an `experiment` can't be planned or run";
    TeacherCapability = "teacher-capability", "an objective needs more of a teacher than it returns";
    ForeignTeacher = "foreign-teacher", "a teacher that does not descend from the student's start";
    VocabularyMismatch = "vocabulary-mismatch", "a teacher with another vocabulary than the student";
    NoReference = "no-reference", "the role `reference` is read without a model for it";
    UnusedSetting = "unused-setting", "a setting that nothing reads";
    OffPolicyRatio = "off-policy-ratio", "a ratio, or the sampler, where others drew the tokens";
    NarrowBound = "narrow-bound", "a bound around the ratio to the sampler that rounding alone exceeds";
    TruncatedSampling = "truncated-sampling",
        "completions sampled from a truncated distribution and scored with the full one";
    MixedTemperatures = "mixed-temperatures",
        "log-probabilities at one temperature of completions drawn at several";
    PrivateStatistics = "private-statistics", "a statistic across examples in a private stage";
    UntrainedMember = "untrained-member", "a model of `train` that no step updates";
    UnequalBudget = "unequal-budget", "rows of one table that spent different amounts";
    UnusedDeclaration = "unused-declaration", "a panel or benchmark that nothing uses";
    UnusedModel = "unused-model", "a model that no table needs, and that is therefore not trained";
    TemplateSlot = "template-slot", "a slot that a template can't fill";
    ClampedDivergence = "clamped-divergence", "a lower bound of 0 on a partial sum that can be negative";
    StaleSignal = "stale-signal", "later passes over a batch use a signal of the first";
    InconsistentTeacher = "inconsistent-teacher",
        "fixed rollouts scored by another teacher than the student was fine-tuned on";
    UnusedName = "unused-name", "a parameter, `let`, import or family variable that nothing reads";
    UnfinishedSchedule = "unfinished-schedule", "a schedule or an interval that is longer than its stage";
    DataLeakage = "data-leakage", "a model is evaluated on prompts that it is trained on";
    SameData = "same-data", "two domains that read the same prompts";
    MisroutedDomain = "misrouted-domain",
        "a domain routed to a teacher that was not trained on it, while another was";
    MissingFile = "missing-file", "a path that does not exist";
    DataMismatch = "data-mismatch", "data that a run would refuse, or that is too little for a step";
    UnusedAllow = "unused-allow", "a comment for silencing a warning that silences none";
}

use super::*;

fn of(text: &str) -> Vec<String> {
    let (class, pairs) = arguments(Path::new("a.py"), text).expect("a configuration");
    let shown = |(path, value)| match value {
        GivenValue::Known(value) => format!("{path} = {value}"),
        GivenValue::Expression(text) => format!("{path} ? {text}"),
    };
    std::iter::once(class).chain(pairs.into_iter().map(shown)).collect()
}

#[test]
fn comments_and_strings_are_no_calls() {
    let text = "\"\"\"Run DistillationConfig(beta=0.25) like so.\"\"\"\n\
                # args = DistillationConfig(beta=0.5)\n\
                text = 'DistillationConfig(beta=0.75)'  # GKDConfig(lmbda=1)\n\
                args = trl.DistillationConfig(beta=1.0,  # not 0.5, (or so)\n    seed=3)\n";
    assert_eq!(of(text), ["DistillationConfig", "beta = 1.0", "seed = 3"]);
}

#[test]
fn a_name_is_known_if_the_module_says_it_once() {
    let text = "LR = 3e-5  # of the paper\nSAME: float = LR\nBS = 1\nBS = 2\nN = 4\nN *= 2\n\
                def f():\n    HIDDEN = 3\n\
                learning_rate = SAME\n\
                args = GKDConfig(\n    learning_rate=learning_rate, beta=1/2, max_steps=BS,\n\
                \x20   seed=N, top=HIDDEN,\n\
                \x20   a=2 * 64, b=(0.9, 0.95), c=\"x\" \"y\", d=f(1, 2), e=None, f=-inf)\n";
    let known = [
        "GKDConfig",
        "learning_rate = 0.00003",
        "beta = 0.5",
        "max_steps ? BS",
        "seed ? N",
        "top ? HIDDEN",
        "a = 128",
        "b = [0.9,0.95]",
        "c = \"xy\"",
        "d ? f(1, 2)",
        "e = null",
        "f ? -inf",
    ];
    assert_eq!(of(text), known);
}

#[test]
fn what_is_unpacked_and_given_by_place_is_not_lost() {
    let text = "kw = dict(beta=0.0, model_init_kwargs={'revision': 'v1', 'dtype': torch.bfloat16})\n\
                lora = LoraConfig(r=8, target_modules=['q_proj'])\n\
                args = DistillationConfig('out', seed=1, **kw, **more())\n\
                DistillationTrainer('a', teacher, args, train_dataset=load('x'), peft_config=lora)\n";
    let known = [
        "DistillationConfig",
        "output_dir = \"out\"",
        "seed = 1",
        "beta = 0.0",
        "model_init_kwargs.revision = \"v1\"",
        "model_init_kwargs.dtype ? torch.bfloat16",
        "**more() ? **more()",
        "model_name_or_path = \"a\"",
        "teacher_model ? teacher",
        "train_dataset ? load('x')",
        "peft_config.kind = \"lora\"",
        "peft_config.r = 8",
        "peft_config.target_modules = [\"q_proj\"]",
    ];
    assert_eq!(of(text), known);
}

#[test]
fn literals_are_those_of_python() {
    let text = "NAME = (\"Qwen/\"\n        'Qwen3')\nLR, SEED = 2e-6, 0x10\n\
                args = GKDConfig(f'out/{LR}', learning_rate=LR, seed=SEED, a=1_000, b=-1e-8, c=r'a\\n',\n\
                \x20   d='t\\x41\\u00e9\\'', e=NAME + '-4B', f=[{'x': 1}], g=b'x', h=1j,\n\
                \x20   i=1e400, j=-(2),\n\
                \x20   k=10 ** -5, l=7 // 2, m=-7 % 4, n=2 ** 62 * 4, o=1 / 0, p=2 * 0.5)\n";
    let known = [
        "GKDConfig",
        "output_dir ? f'out/{LR}'",
        "learning_rate = 2e-6",
        "seed = 16",
        "a = 1000",
        "b = -1e-8",
        "c = \"a\\\\n\"",
        "d = \"tA\u{e9}'\"",
        "e = \"Qwen/Qwen3-4B\"",
        "f = [{\"x\":1}]",
        "g ? b'x'",
        "h ? 1j",
        "i ? 1e400",
        "j = -2",
        "k = 0.00001",
        "l = 3",
        "m = 1",
        "n ? 2 ** 62 * 4",
        "o ? 1 / 0",
        "p = 1.0",
    ];
    assert_eq!(of(text), known);
}

#[test]
fn dictionaries_and_dataclasses_have_fields() {
    let text = "@dataclass\nclass Cfg:\n    lr: float = 1e-4\n    top_p: float = 0.9\n\
                class Own:\n    def __init__(self, lr):\n        self.lr = lr / 2\n\
                cfg = Cfg(lr=3e-5)\nown = Own(lr=1)\nbase = {'beta': 0.5, 'kw': {'a': {'b': 1}}}\n\
                args = GKDConfig(learning_rate=cfg.lr, top_p=cfg.top_p, own=own.lr, c=base['beta'],\n\
                \x20   **(base | {'beta': 0.25}), **dict({'x': 1}, x=2), **{'y': 1, **more()})\n";
    let known = [
        "GKDConfig",
        "learning_rate = 0.00003",
        "top_p = 0.9",
        "own ? own.lr",
        "c = 0.5",
        "kw.a.b = 1",
        "beta = 0.25",
        "x = 2",
        "**{'y': 1, **more()} ? **{'y': 1, **more()}",
    ];
    assert_eq!(of(text), known);
}

#[test]
fn what_changes_is_not_what_it_was() {
    let text = "kw = dict(a=1)\nkw['a'] = 2\nmore = ['x']\nmore.append('y')\nLR = 1e-5\n\
                from other import SEED\nSEED = 1\n\
                def f(LR):\n    args = GKDConfig(kw, learning_rate=LR, tags=more, seed=SEED,\n\
                \x20       beta=0.5, b=1)\n\
                \x20   args.beta = 1.0\n    args.b += 1\n";
    let known = [
        "GKDConfig",
        "output_dir ? kw",
        "learning_rate ? LR",
        "tags ? more",
        "seed ? SEED",
        "beta ? changed by `args.beta = 1.0`",
        "b ? changed by `args.b += 1`",
    ];
    assert_eq!(of(text), known);
    let text = "args = GKDConfig(beta=0.5, seed=1)\nargs.beta = 1.0\nargs.kw = {'a': 1}\n";
    assert_eq!(of(text), ["GKDConfig", "seed = 1", "beta = 1.0", "kw.a = 1"]);
}

#[test]
fn a_class_is_no_call() {
    let text = "class GKDConfig(Base):\n    pass\n";
    assert!(arguments(Path::new("a.py"), text).is_err());
}

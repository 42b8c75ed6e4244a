//! The trained parameters: all weights, some of them, or an adapter.

use super::*;
use crate::formats::peft;
use crate::train::initial_adapter;

/// Frozen weights stay, to the bit. Those of the chosen group change, as they do where all are trained: the
/// gradients are not clipped, because the norm is that of the trained weights.
#[test]
fn frozen_weights_stay() {
    let fixture = Fixture::new();
    let models = models(false);
    let groups =
        [WeightGroup::Attention, WeightGroup::FeedForward, WeightGroup::Embedding, WeightGroup::Norm];
    let start = models[0].values().into_owned();
    let unclipped = || {
        let optimizer = plan::Optimizer::Sgd(plan::Sgd { momentum: 0.0, clip_norm: 1e9 });
        let learning_rate = Schedule::Constant { value: 1.0 }.into();
        Train { optimizer, learning_rate, ..train(mopd(1.0), 1) }
    };
    let one_step = |train: &Train<Objective>| {
        let stage = Stage { steps: 1, ..fixture.stage(train, ROUTED, &models) };
        trained_to_the_end(&stage).0
    };
    let all = one_step(&unclipped());
    let largest = zip_equal(&all, &start).map(|(end, start)| (end - start).abs()).fold(0.0, f32::max);
    for group in groups {
        let mut train = unclipped();
        let only = vec![WeightFilter::Group(group)];
        train.trainable =
            Trainable::Weights { only: Some(only), except: vec![WeightFilter::Layers { first: 1, last: 1 }] };
        let end = one_step(&train);
        for entry in layout(&models[0].config) {
            let of_group = match group {
                WeightGroup::Norm => entry.name.contains("norm"),
                WeightGroup::Embedding => entry.name.contains("embed") || entry.name.contains("lm_head"),
                WeightGroup::Attention => entry.name.contains("attn"),
                WeightGroup::FeedForward => entry.name.contains(".mlp."),
            };
            let trains = of_group && !entry.name.contains("layers.1.");
            let range = entry.offset..entry.offset + entry.len();
            let expected = if trains { &all } else { &start };
            let apart = zip_equal(&end[range.clone()], &expected[range.clone()])
                .map(|(end, expected)| (end - expected).abs())
                .fold(0.0, f32::max);
            assert!(apart <= 1e-5 * largest, "{} with {group:?}: {apart:e} of {largest:e}", entry.name);
            assert_eq!(end[range.clone()] != start[range], trains, "{} with {group:?}", entry.name);
        }
    }
    let mut nothing = train(mopd(1.0), 1);
    nothing.trainable =
        Trainable::Weights { only: Some(vec![WeightFilter::Layers { first: 7, last: 9 }]), except: vec![] };
    let Err(stopped) = super::super::train(&fixture.stage(&nothing, ROUTED, &models), None) else {
        panic!("something trained")
    };
    assert!(stopped.error.to_string().contains("no weight is left to train"), "{}", stopped.error);
}

/// LoRA (arXiv:2106.09685) and DoRA (arXiv:2402.09353): the gradient of every part against automatic
/// differentiation of W + s B A in double precision, with or without magnitudes; in micro-batches too. A few
/// steps come first, so that B is not 0.
#[test]
fn adapters_have_the_references_gradient() {
    let fixture = Fixture::new();
    let models = models(true);
    for kind in [AdapterKind::Lora, AdapterKind::Dora] {
        let mut train = train(direct(Support::Full, Mass::Raw), 1);
        train.trainable = Trainable::Adapter(adapter(kind));
        let mut stage = fixture.stage(&train, ROUTED, &models);
        for (place, micro_batch) in
            Place::tested().into_iter().flat_map(|place| [(place, None), (place, Some(3))])
        {
            (stage.place, stage.micro_batch) = (place, micro_batch);
            let mut trainer = Trainer::new(&stage).unwrap();
            for step in 0..3 {
                trainer.step(step, &mut Record::default()).unwrap();
            }
            let rollouts = trainer.rollouts_of(3).unwrap().remove(0);
            let EvaluatedBatch { gradient, .. } = trainer.evaluate(0, &rollouts, 3).unwrap();
            // The gradient has only the adapter's parameters.
            let adapted = trainer.student.trained.adapter().unwrap();
            assert_eq!(gradient.parameters(), adapted.parameters().numel());
            let gradient = trainer.student.trained.gradient(gradient);
            let got = to_vec(&gradient.part(0..gradient.parameters()));

            let leaf = |shape: &[usize], values: &[f32]| {
                let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
                Tensor::from_slice(values)
                    .to_kind(Kind::Double)
                    .view(shape.as_slice())
                    .set_requires_grad(true)
            };
            let parts: HashMap<String, Tensor> = peft::parts(&adapted.merged())
                .into_iter()
                .map(|(name, shape, values)| (name, leaf(&shape, &values)))
                .collect();
            let mut student = Reference::new(&models[0]);
            for (name, weight) in &mut student.leaves {
                let module = format!("base_model.model.{}", name.strip_suffix(".weight").unwrap());
                let Some(a) = parts.get(&format!("{module}.lora_A.weight")) else { continue };
                let b = &parts[&format!("{module}.lora_B.weight")];
                let direction = weight.detach() + b.matmul(a) * 2.0;
                *weight = match parts.get(&format!("{module}.lora_magnitude_vector")) {
                    None => direction,
                    Some(magnitude) => {
                        let norm = direction
                            .square()
                            .sum_dim_intlist([1].as_slice(), true, Kind::Double)
                            .sqrt()
                            .detach();
                        &direction * (magnitude.unsqueeze(1) / norm)
                    }
                };
            }
            let teachers = [Reference::new(&models[1]), Reference::new(&models[2])];
            let (_, terms) = objectives().pop().unwrap();
            let losses: Vec<Tensor> = rollouts
                .sequences
                .list
                .iter()
                .map(|sequence| {
                    let prompt = sequence.prompt(&stage.sources);
                    let teacher = teachers[sequence.source].logps(prompt, &sequence.completion).detach();
                    let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
                    terms(&student.logps(prompt, &sequence.completion), &teacher, &taken).mean(Kind::Double)
                })
                .collect();
            let loss = Tensor::stack(&losses, 0).mean(Kind::Double);
            let names: Vec<String> =
                peft::parts(&adapted.merged()).into_iter().map(|(name, ..)| name).collect();
            // The vector's order: A and B of each matrix, then the magnitudes.
            let (factors, magnitudes): (Vec<&String>, Vec<&String>) =
                names.iter().partition(|name| !name.ends_with("vector"));
            let order: Vec<&Tensor> =
                factors.into_iter().chain(magnitudes).map(|name| &parts[name]).collect();
            let gradients = Tensor::run_backward(&[&loss], &order, false, false);
            let flat: Vec<Tensor> = gradients.iter().map(|gradient| gradient.reshape([-1])).collect();
            let expected: Vec<f64> = Vec::try_from(&Tensor::cat(&flat, 0)).unwrap();
            let apart = apart(&got, &expected);
            assert!(apart < 1e-5, "{kind:?}, {}, {micro_batch:?}: {apart:e}", place.name());
        }
    }
}

/// The result of a stage: all ways to read the model with its adapter give the same numbers.
#[test]
fn a_model_with_an_adapter_is_plain_data() {
    let fixture = Fixture::new();
    let models = models(true);
    for kind in [AdapterKind::Lora, AdapterKind::Dora] {
        let mut train = train(mopd(1.0), 1);
        train.trainable = Trainable::Adapter(adapter(kind));
        let stage = fixture.stage(&train, ROUTED, &models);
        let mut trainer = Trainer::new(&stage).unwrap();
        for step in 0..2 {
            trainer.step(step, &mut Record::default()).unwrap();
        }
        let expected = to_vec(trainer.student.model.flat());
        assert_ne!(expected, models[0].values().into_owned());
        let weights = trainer.student.trained.weights(&trainer.student.model);
        assert!(weights.values() == expected);
        let mut parts = Vec::new();
        weights.for_each_part(|part| parts.extend_from_slice(part));
        assert!(parts == expected);
        for kind in [Kind::Float, Kind::BFloat16] {
            let flat = trainer.student.model.flat().to_kind(kind);
            assert!(weights.flat(kind, Device::Cpu).equal(&flat), "{kind:?}");
            for entry in layout(&weights.config) {
                let own = flat.narrow(0, entry.offset as i64, entry.len() as i64);
                assert!(weights.tensor(&entry, kind, Device::Cpu).view([-1]).equal(&own), "{}", entry.name);
                assert_eq!(weights.of(&entry), &expected[entry.offset..entry.offset + entry.len()]);
            }
        }
    }
}

/// An adapter changes its targets alone, starts from the unchanged model, and is saved with PEFT's names.
#[test]
fn an_adapter_changes_its_targets_alone() {
    let fixture = Fixture::new();
    let models = models(true);
    let mut train = train(mopd(1.0), 1);
    train.trainable = Trainable::Adapter(Adapter { layers: Some((0, 0)), ..adapter(AdapterKind::Dora) });
    let stage = fixture.stage(&train, ROUTED, &models);
    let trainer = Trainer::new(&stage).unwrap();
    trainer.student.trained.apply(&trainer.student.model);
    let (merged, start) = (to_vec(trainer.student.model.flat()), models[0].values().into_owned());
    assert!(merged.iter().zip(&start).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()), "B is 0 at first");
    // What an engine begins with.
    let initial = initial_adapter(&stage).unwrap().unwrap();
    let begun = trainer.student.weights();
    assert!(begun.adapted().unwrap().adapters().eq(initial.adapters()));
    let finished = super::super::train(&stage, None).map_err(|stopped| stopped.error).unwrap();
    let end = finished.weights.values();
    for entry in layout(&models[0].config) {
        let range = entry.offset..entry.offset + entry.len();
        let trains = entry.name.contains("layers.0.")
            && ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
                .iter()
                .any(|module| entry.name.contains(module));
        assert_eq!(end[range.clone()] != start[range], trains, "{}", entry.name);
    }
    // Averaged weights are not the merge of an adapter.
    let options = TrainOptions { ema: Some(0.9), ..train.options.clone() };
    let averaged = Train { options, ..train.clone() };
    let averaged = super::super::train(&Stage { train: &averaged, ..stage.clone() }, None);
    assert!(averaged.map_err(|stopped| stopped.error).unwrap().weights.adapted().is_none());
    let files = peft::files(finished.weights.adapted().unwrap(), "org/base").unwrap();
    let [(config_name, config), (model_name, model)] = &files[..] else { panic!("two files") };
    assert_eq!((*config_name, *model_name), ("adapter_config.json", "adapter_model.safetensors"));
    let config: serde_json::Value = serde_json::from_slice(config).unwrap();
    assert_eq!(
        (&config["r"], &config["use_dora"], &config["layers_to_transform"]),
        (&3.into(), &true.into(), &[0].as_slice().into())
    );
    assert_eq!(config["base_model_name_or_path"], "org/base");
    let tensors = safetensors::SafeTensors::deserialize(model).unwrap();
    let part = tensors.tensor("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight").unwrap();
    assert_eq!(part.shape(), [3, 24]);
    let part =
        tensors.tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector").unwrap();
    assert_eq!(part.shape(), [16]);
}

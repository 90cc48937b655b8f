//! Golden `forward`, `gradients`, `ftrl`, `train` and `sampling`, through the f32 code that trains.

use std::collections::BTreeMap;

use deepfm_core::feature::{Entry, Features, hash};
use deepfm_core::model::batch::{Architecture, Dense};
use deepfm_core::model::loss::{log_loss, sigmoid};
use deepfm_core::model::mlp::{Activations, MlpShape, UnitPart};
use deepfm_core::model::params::{Activation, MlpParams, ModelParams};
use deepfm_core::model::{DeepFm, DenseState, Example, Importance, Inline, Scratch};
use deepfm_core::optim::ftrl as rule;
use deepfm_core::optim::params::{FtrlParams, SgdParams};
use deepfm_core::optim::sgd::norm;
use serde_json::Value;

use super::{Tolerance, integer, list, real, reals};

fn floats(value: &Value) -> Vec<f32> {
    reals(value).iter().map(|x| *x as f32).collect()
}

fn ftrl_params(value: &Value) -> FtrlParams {
    let parameter = |key: &str| value.get(key).map_or(0.0, |x| real(x) as f32);
    FtrlParams {
        alpha: parameter("alpha"),
        beta: parameter("beta"),
        l1: parameter("l1"),
        l2: parameter("l2"),
        l21: parameter("l21"),
    }
}

/// The flat parameters of an MLP document, in the order of `MlpShape`.
fn flat_mlp(mlp: &Value) -> Vec<f64> {
    let mut flat = Vec::new();
    for layer in list(&mlp["layers"]) {
        for row in list(&layer["weight"]) {
            flat.extend(reals(row));
        }
        flat.extend(reals(&layer["bias"]));
    }
    if !flat.is_empty() {
        flat.extend(reals(&mlp["output"]));
    }
    flat
}

fn mlp_params(mlp: &Value) -> MlpParams {
    let activation = match mlp["activation"].as_str() {
        Some("relu") | None => Activation::Relu,
        Some("tanh") => Activation::Tanh,
        Some(other) => panic!("activation {other:?}"),
    };
    let widths = list(&mlp["layers"]).iter().map(|layer| integer(&layer["outputs"]) as usize).collect();
    MlpParams { layers: widths, activation, dropout: Vec::new() }
}

fn model_params(model: &Value, mlp: &Value) -> ModelParams {
    ModelParams {
        fields: integer(&model["num_fields"]) as usize,
        embedding_dim: integer(&model["k"]) as usize,
        mlp: mlp_params(mlp),
        ..ModelParams::default()
    }
}

struct Labelled {
    features: Features,
    label: f32,
    weight: f32,
}

fn batch(value: &Value) -> Vec<Labelled> {
    let entry = |entry: &Value| Entry { id: integer(&entry["id"]), x: real(&entry["x"]) as f32 };
    let fields = |example: &Value| -> Vec<Vec<Entry>> {
        list(&example["fields"]).iter().map(|field| list(field).iter().map(entry).collect()).collect()
    };
    list(value)
        .iter()
        .map(|example| Labelled {
            features: Features::new(&fields(example)),
            label: real(&example["label"]) as f32,
            weight: real(&example["weight"]) as f32,
        })
        .collect()
}

fn examples(batch: &[Labelled]) -> Vec<Example<'_>> {
    batch
        .iter()
        .map(|Labelled { features, label, weight }| Example {
            features,
            label: *label,
            weight: *weight,
            importance: Importance::None,
            number: 0,
        })
        .collect()
}

/// Plain weights of a `forward` or `gradients` file, laid out for its batch.
fn plain(document: &Value, batch: &[Labelled]) -> (Architecture, f32, Vec<f32>, Scratch) {
    let state = &document["state"];
    let architecture = Architecture::new(&model_params(&document["model"], &state["mlp"]));
    let rows: BTreeMap<u64, (f32, Vec<f32>)> = list(&state["rows"])
        .iter()
        .map(|row| (integer(&row["id"]), (real(&row["w"]) as f32, floats(&row["v"]))))
        .collect();
    let mlp = flat_mlp(&state["mlp"]).iter().map(|x| *x as f32).collect();
    let mut scratch = Scratch::default();
    scratch.gather(&architecture, batch.iter().map(|labelled| &labelled.features), |id, v| match rows.get(&id) {
        Some((w, row)) => {
            v.copy_from_slice(row);
            *w
        }
        None => 0.0,
    });
    (architecture, real(&state["bias"]) as f32, mlp, scratch)
}

pub(super) fn forward(document: &Value) {
    let name = document["name"].as_str().expect("a name");
    let tolerance = Tolerance::of(&document["tolerance"]["f32"]);
    let batch = batch(&document["batch"]);
    let (architecture, bias, mlp, mut scratch) = plain(document, &batch);
    scratch.forward(&architecture, Dense { bias, mlp: &mlp }, &Inline);
    let expected = &document["expected"];
    let mut loss_sum = 0.0;
    for (at, ((linear, fm), wanted)) in scratch.terms().zip(list(&expected["examples"])).enumerate() {
        let logit = scratch.logits()[at];
        let loss = f64::from(batch[at].weight) * log_loss(f64::from(logit), f64::from(batch[at].label));
        loss_sum += loss;
        let got = [
            ("linear", f64::from(linear)),
            ("fm", f64::from(fm)),
            ("dnn", f64::from(logit - bias - linear - fm)),
            ("logit", f64::from(logit)),
            ("prob", sigmoid(f64::from(logit))),
            ("loss", loss),
        ];
        for (term, value) in got {
            // The MLP's own term is a difference of sums here: its rounding is that of the largest of them.
            let largest = [linear, fm, logit].iter().fold(1.0_f64, |most, x| most.max(f64::from(x.abs())));
            let slack = if term == "dnn" { largest } else { 1.0 };
            let tolerance = Tolerance { atol: tolerance.atol * slack, ..tolerance };
            tolerance.check(&format!("{name} example {at} {term}"), value, real(&wanted[term]));
        }
    }
    assert_eq!(scratch.logits().len(), list(&expected["examples"]).len(), "{name}");
    tolerance.check(&format!("{name} loss_sum"), loss_sum, real(&expected["loss_sum"]));
    tolerance.check(&format!("{name} loss_mean"), loss_sum / batch.len() as f64, real(&expected["loss_mean"]));
}

pub(super) fn gradients(document: &Value) {
    let name = document["name"].as_str().expect("a name");
    let tolerance = Tolerance::of(&document["tolerance"]["f32"]);
    let batch = batch(&document["batch"]);
    let (architecture, bias, mlp, mut scratch) = plain(document, &batch);
    scratch.backward(&architecture, Dense { bias, mlp: &mlp }, &examples(&batch), None, &Inline);
    let expected = &document["expected"];
    tolerance.check_all(&format!("{name} dlogit"), scratch.dlogits(), &reals(&expected["dlogit"]));
    let bias_gradient: f64 = scratch.dlogits().iter().map(|d| f64::from(*d)).sum();
    tolerance.check(&format!("{name} bias"), bias_gradient, real(&expected["bias"]));
    let rows: BTreeMap<u64, (f32, Vec<f32>)> =
        scratch.row_gradients(architecture.dim).map(|(id, w, v)| (id, (w, v.to_vec()))).collect();
    assert_eq!(rows.len(), list(&expected["rows"]).len(), "{name}: distinct ids");
    for wanted in list(&expected["rows"]) {
        let id = integer(&wanted["id"]);
        let (w, v) = &rows[&id];
        tolerance.check(&format!("{name} row {id} w"), f64::from(*w), real(&wanted["w"]));
        tolerance.check_all(&format!("{name} row {id} v"), v, &reals(&wanted["v"]));
    }
    let mean: Vec<f32> = scratch.mlp_gradient(&architecture).iter().map(|g| g / batch.len() as f32).collect();
    tolerance.check_all(&format!("{name} mlp"), &mean, &flat_mlp(&expected["mlp_mean"]));
}

pub(super) fn ftrl(document: &Value) {
    for (number, sequence) in list(&document["sequences"]).iter().enumerate() {
        let name = format!("{} sequence {number}", document["name"]);
        let tolerance = Tolerance::of(&sequence["tolerance"]["f32"]);
        let params = ftrl_params(&sequence["params"]);
        let n0 = real(&sequence["init"]["n0"]) as f32;
        let w0 = floats(&sequence["init"]["w0"]);
        let centred = sequence["init"]["mode"] == "centred";
        let mut z: Vec<f32> = w0.iter().map(|w| if centred { rule::centred(&params, *w, n0) } else { 0.0 }).collect();
        let mut n = vec![n0; z.len()];
        let mut w = vec![0.0; z.len()];
        let derive = |z: &[f32], n: &[f32], w: &mut [f32]| {
            rule::weights(&params, z, n, w);
            rule::shrink_group(&params, z, w);
        };
        let check = |what: String, state: &Value, z: &[f32], n: &[f32], w: &[f32]| {
            tolerance.check_all(&format!("{what} z"), z, &reals(&state["z"]));
            tolerance.check_all(&format!("{what} n"), n, &reals(&state["n"]));
            for (got, wanted) in w.iter().zip(reals(&state["w"])) {
                tolerance.check_weight(&format!("{what} w"), f64::from(*got), wanted);
            }
        };
        derive(&z, &n, &mut w);
        check(format!("{name} initial"), &sequence["initial"], &z, &n, &w);
        for (at, step) in list(&sequence["steps"]).iter().enumerate() {
            rule::update(&params, None, &floats(&step["g"]), &w, &mut z, &mut n);
            derive(&z, &n, &mut w);
            check(format!("{name} step {at}"), step, &z, &n, &w);
        }
    }
}

fn row_bytes(row: &Value) -> Vec<u8> {
    let mut bytes = integer(&row["id"]).to_le_bytes().to_vec();
    bytes.extend([0; 8]);
    for (scalar, vector) in [("zw", "zv"), ("nw", "nv")] {
        bytes.extend((real(&row[scalar]) as f32).to_le_bytes());
        for x in floats(&row[vector]) {
            bytes.extend(x.to_le_bytes());
        }
    }
    bytes
}

fn check_state(what: &str, tolerance: Tolerance, model: &DeepFm, wanted: &Value) {
    let dense = model.dense();
    tolerance.check(&format!("{what} bias z"), f64::from(dense.bias_z), real(&wanted["bias"]["z"]));
    tolerance.check(&format!("{what} bias n"), f64::from(dense.bias_n), real(&wanted["bias"]["n"]));
    tolerance.check_weight(&format!("{what} bias w"), f64::from(model.bias()), real(&wanted["bias"]["w"]));
    assert_eq!(model.row_count(), list(&wanted["rows"]).len(), "{what}: rows");
    let mut v = vec![0.0; model.params().embedding_dim];
    for row in list(&wanted["rows"]) {
        let id = integer(&row["id"]);
        let number = model.table().find(id).unwrap_or_else(|| panic!("{what}: no row {id}"));
        let (z, n) = model.table().state(number).split_at(1 + v.len());
        let w = model.row_weights(number, &mut v);
        let what = format!("{what} row {id}");
        tolerance.check_weight(&format!("{what} w"), f64::from(w), real(&row["w"]));
        tolerance.check(&format!("{what} zw"), f64::from(z[0]), real(&row["zw"]));
        tolerance.check(&format!("{what} nw"), f64::from(n[0]), real(&row["nw"]));
        tolerance.check_all(&format!("{what} zv"), &z[1..], &reals(&row["zv"]));
        tolerance.check_all(&format!("{what} nv"), &n[1..], &reals(&row["nv"]));
        for (got, wanted) in v.iter().zip(reals(&row["v"])) {
            tolerance.check_weight(&format!("{what} v"), f64::from(*got), wanted);
        }
    }
    tolerance.check_all(&format!("{what} mlp"), &dense.mlp, &flat_mlp(&wanted["mlp"]));
    // Without momentum there is no buffer to keep.
    if let Some(momentum) = wanted.get("momentum").filter(|_| model.params().sgd.momentum > 0.0) {
        tolerance.check_all(&format!("{what} momentum"), &dense.momentum, &flat_mlp(momentum));
    }
}

pub(super) fn train(document: &Value) {
    let name = document["name"].as_str().expect("a name");
    let tolerance = Tolerance::of(&document["tolerance"]["f32"]);
    let (initial, sgd, create) = (&document["initial_state"], &document["sgd"], &document["create_rows"]);
    let centred = create["mode"] == "centred";
    let params = ModelParams {
        bias: ftrl_params(&document["ftrl"]["bias"]),
        linear: ftrl_params(&document["ftrl"]["linear"]),
        embedding: ftrl_params(&document["ftrl"]["embedding"]),
        sgd: SgdParams {
            learning_rate: real(&sgd["lr"]) as f32,
            momentum: real(&sgd["momentum"]) as f32,
            l2: real(&sgd["l2"]) as f32,
            clip_norm: real(&sgd["clip_norm"]) as f32,
        },
        seed: create["seed"].as_u64().unwrap_or_default(),
        init_scale: if centred { real(&create["scale"]) as f32 } else { 0.0 },
        ..model_params(&document["model"], &initial["mlp"])
    };
    let mlp: Vec<f32> = flat_mlp(&initial["mlp"]).iter().map(|x| *x as f32).collect();
    let dense = DenseState {
        bias_z: real(&initial["bias"]["z"]) as f32,
        bias_n: real(&initial["bias"]["n"]) as f32,
        momentum: vec![0.0; mlp.len()],
        mlp,
    };
    let rows: Vec<Vec<u8>> = list(&initial["rows"]).iter().map(row_bytes).collect();
    let mut model = DeepFm::restore(params, dense, rows.iter().map(Vec::as_slice), []).expect("each id has one row");
    check_state(&format!("{name} initial"), tolerance, &model, initial);
    let mut scratch = Scratch::default();
    let steps = list(&document["expected"]["steps"]);
    assert_eq!(steps.len(), list(&document["batches"]).len(), "{name}");
    for (at, (value, wanted)) in list(&document["batches"]).iter().zip(steps).enumerate() {
        let what = format!("{name} step {at}");
        let batch = batch(value);
        let divisor = if sgd["reduction"] == "sum" { 1.0 } else { batch.len() as f32 };
        model.learn(&examples(&batch), divisor, 0, &mut scratch, &Inline).unwrap_or_else(|e| panic!("{what}: {e}"));
        tolerance.check_all(&format!("{what} logits"), scratch.logits(), &reals(&wanted["logits"]));
        let losses = scratch.logits().iter().zip(&batch).map(|(logit, labelled)| {
            f64::from(labelled.weight) * log_loss(f64::from(*logit), f64::from(labelled.label))
        });
        let loss_mean = losses.sum::<f64>() / batch.len() as f64;
        tolerance.check(&format!("{what} loss_mean"), loss_mean, real(&wanted["loss_mean"]));
        let norm = norm(scratch.mlp_gradient(model.architecture())) / f64::from(divisor);
        tolerance.check(&format!("{what} norm"), norm, real(&wanted["mlp_grad_norm"]));
        if at == 0 {
            check_state(&what, tolerance, &model, &document["expected"]["state_after_first_step"]);
        }
    }
    check_state(&format!("{name} final"), tolerance, &model, &document["expected"]["final_state"]);
}

pub(super) fn sampling(document: &Value) {
    let tolerance = Tolerance::of(&document["tolerance"]["f64"]);
    for case in list(&document["mix64"]) {
        assert_eq!(hash::mix64(integer(&case["x"])), integer(&case["mix64"]), "{case}");
    }
    for case in list(&document["keep"]) {
        let (seed, key) = (integer(&case["seed"]), integer(&case["key"]));
        assert_eq!(hash::hash(seed, key, 0), integer(&case["hash"]), "{case}");
        tolerance.check("u", hash::unit(seed, key), real(&case["u"]));
        assert_eq!(hash::unit(seed, key) < real(&case["rate"]), case["keep"] == true, "{case}");
    }
    for case in list(&document["init"]) {
        let (seed, key) = (integer(&case["seed"]), integer(&case["key"]));
        for (lane, (hashed, w0)) in list(&case["hash"]).iter().zip(list(&case["w0_f32"])).enumerate() {
            assert_eq!(hash::hash(seed, key, lane as u64), integer(hashed), "{case}");
            let w = hash::uniform_weight(seed, key, lane as u64, real(&case["scale"]) as f32);
            assert_eq!(w.to_bits(), (real(w0) as f32).to_bits(), "{case}");
        }
    }
    for case in list(&document["correction"]) {
        let (rate, logit) = (real(&case["rate"]), real(&case["logit"]));
        let corrected = logit + rate.ln();
        tolerance.check("corrected_logit", corrected, real(&case["corrected_logit"]));
        let p = real(&case["prob"]);
        tolerance.check("prob", sigmoid(logit), p);
        tolerance.check("corrected_prob", p / (p + (1.0 - p) / rate), real(&case["corrected_prob"]));
        tolerance.check("corrected_prob", sigmoid(corrected), real(&case["corrected_prob"]));
        tolerance.check("weight", 1.0 / rate, real(&case["negative_importance_weight"]));
    }
    for case in list(&document["delayed_weights"]) {
        let p = real(&case["p"]);
        tolerance.check("fnw positive", Importance::FakePositive.factor(p), real(&case["fnw"]["positive"]));
        tolerance.check("fnw negative", Importance::FakeNegative.factor(p), real(&case["fnw"]["negative"]));
        let capped = real(&case["late_correction_weight"]).min(20.0);
        tolerance.check("late correction", Importance::LateCorrection.factor(p), capped);
    }
}

#[test]
fn golden_gradients_of_every_activation_agree_with_finite_differences() {
    let inputs = 5;
    for activation in [Activation::Relu, Activation::LeakyRelu, Activation::Tanh, Activation::Sigmoid] {
        let params = MlpParams { layers: vec![6, 4], activation, dropout: vec![0.0, 0.4] };
        let shape = MlpShape::new(&params, inputs, 11);
        let weights = shape.initial();
        let x: Vec<f32> = (0..2 * inputs).map(|i| hash::uniform_weight(3, i as u64, 0, 1.0)).collect();
        let numbers = [17, 4];
        let logit_sum = |weights: &[f32], x: &[f32]| -> f64 {
            let mut logits = [0.0; 2];
            shape.forward(weights, x, Some(&numbers), &mut Activations::default(), &mut logits);
            logits.iter().map(|l| f64::from(*l)).sum()
        };
        let (mut work, mut logits) = (Activations::default(), [0.0; 2]);
        shape.forward(&weights, &x, Some(&numbers), &mut work, &mut logits);
        let (mut gradient, mut dx) = (vec![0.0; shape.len], vec![0.0; x.len()]);
        shape.backward(&weights, &[1.0, 1.0], &mut work, &mut dx);
        shape.add_gradient((&x, &[1.0, 1.0]), 1.0, &work, &mut Vec::new(), (UnitPart::ALL, &mut gradient));
        let step = 1e-2_f32;
        let slope = |values: &[f32], at: usize, f: &dyn Fn(&[f32]) -> f64| {
            let (mut up, mut down) = (values.to_vec(), values.to_vec());
            up[at] += step;
            down[at] -= step;
            (f(&up) - f(&down)) / f64::from(up[at] - down[at])
        };
        for (at, found) in gradient.iter().enumerate() {
            let expected = slope(&weights, at, &|w| logit_sum(w, &x));
            assert!((f64::from(*found) - expected).abs() < 5e-3, "{activation:?} parameter {at}: {found} {expected}");
        }
        for (at, found) in dx.iter().enumerate() {
            let expected = slope(&x, at, &|x| logit_sum(&weights, x));
            assert!((f64::from(*found) - expected).abs() < 5e-3, "{activation:?} input {at}: {found} {expected}");
        }
    }
}

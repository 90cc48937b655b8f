//! `ModelInfer`: tensors of a message become rows, and scores become a message. Outputs are always raw.

use std::collections::BTreeMap;

use prost::bytes::Bytes;
use serde_json::Value;

use super::messages::{
    InferInputTensor, InferParameter, ModelInferRequest, ModelInferResponse, ParameterChoice, TensorContents,
    TensorMetadata,
};
use crate::serve::http::App;
use crate::serve::http::answer::HttpRefusal;
use crate::serve::http::app::{about, check_version, count};
use crate::serve::http::rows::{self, OUTPUTS};
use crate::serve::http::tensor::{Data, Datatype, Scalar, Tensor, shortest};
use crate::serve::scorer::Predictions;

/// Scores a request with the arm that it is for.
pub(super) fn infer(app: &App, request: &ModelInferRequest) -> Result<ModelInferResponse, HttpRefusal> {
    app.check(&request.model_name)?;
    let asked = match request.model_version.as_str() {
        "" => None,
        version => Some(app.arm_of(&request.model_name, version)?),
    };
    let key = request.parameters.get("key").and_then(|key| key.choice.as_ref()).map(text);
    let arm = app.chosen(asked, key.as_deref().map(str::as_bytes));
    arm.with_scorer(|scorer| {
        let rows = scorer.request()?;
        check_version(asked, rows.model().version())?;
        let mut about = about(arm, rows.model());
        rows::check_outputs(request.outputs.iter().map(|output| output.name.as_str()))?;
        let names = request.inputs.iter().map(|input| input.name.as_str());
        rows::check_inputs(names, rows.model().encoder().fields().len())?;
        let tensors = tensors(request, rows.rows_max())?;
        let predictions = rows::score(rows, &tensors)?;
        count(arm, &predictions);
        about.insert("unknown_fields".to_owned(), predictions.unknown_fields.into());
        let parameters = about.into_iter().filter_map(|(name, value)| Some((name, parameter(&value)?))).collect();
        Ok(answer(request, &predictions, parameters))
    })
}

/// A parameter as the text that an arm is chosen by: the same as in JSON.
fn text(choice: &ParameterChoice) -> String {
    match choice {
        ParameterChoice::Bool(value) => value.to_string(),
        ParameterChoice::Signed(value) => value.to_string(),
        ParameterChoice::Text(value) => value.clone(),
        ParameterChoice::Real(value) => serde_json::json!(value).to_string(),
        ParameterChoice::Unsigned(value) => value.to_string(),
    }
}

fn parameter(value: &Value) -> Option<InferParameter> {
    let choice = match value {
        Value::String(text) => ParameterChoice::Text(text.clone()),
        value => ParameterChoice::Signed(value.as_i64()?),
    };
    Some(InferParameter { choice: Some(choice) })
}

fn answer(
    request: &ModelInferRequest,
    predictions: &Predictions<'_>,
    parameters: BTreeMap<String, InferParameter>,
) -> ModelInferResponse {
    let asked: Vec<&str> = match request.outputs.as_slice() {
        [] => OUTPUTS.to_vec(),
        outputs => outputs.iter().map(|output| output.name.as_str()).collect(),
    };
    let shape = vec![predictions.logits.len() as i64];
    let output =
        |name: &&str| TensorMetadata { name: (*name).to_owned(), datatype: "FP64".to_owned(), shape: shape.clone() };
    let raw = |name: &&str| rows::output(predictions, name).flat_map(f64::to_le_bytes).collect::<Bytes>();
    let manifest = predictions.model.manifest();
    ModelInferResponse {
        model_name: manifest.model.clone(),
        model_version: manifest.version.to_string(),
        id: request.id.clone(),
        parameters,
        outputs: asked.iter().map(output).collect(),
        raw_output_contents: asked.iter().map(raw).collect(),
    }
}

fn tensors(request: &ModelInferRequest, rows_max: usize) -> Result<Vec<Tensor<'_>>, HttpRefusal> {
    let (inputs, raw) = (&request.inputs, &request.raw_input_contents);
    if !raw.is_empty() && raw.len() != inputs.len() {
        let said = format!("there are {} raw contents for {} inputs", raw.len(), inputs.len());
        return Err(HttpRefusal::BadRequest(said));
    }
    let tensors = inputs.iter().enumerate().map(|(at, input)| tensor_of(request, at, input, rows_max));
    tensors.collect::<Result<_, _>>().map_err(HttpRefusal::BadRequest)
}

fn tensor_of<'r>(
    request: &'r ModelInferRequest,
    at: usize,
    input: &'r InferInputTensor,
    rows_max: usize,
) -> Result<Tensor<'r>, String> {
    let InferInputTensor { name, datatype, shape, contents } = input;
    let unsigned: Result<Vec<u64>, _> = shape.iter().map(|size| u64::try_from(*size)).collect();
    let unsigned = unsigned.map_err(|_| format!("tensor {name:?} has shape {shape:?}, not [N] or [N, k]"))?;
    let data = match (request.raw_input_contents.get(at), contents) {
        (Some(raw), None) => Data::Raw(raw),
        (None, Some(contents)) => data(name, datatype, contents)?,
        (Some(_), Some(_)) => return Err(format!("tensor {name:?} has contents, and raw contents too")),
        (None, None) => return Err(format!("tensor {name:?} has no contents")),
    };
    Tensor::read(name, datatype, &unsigned, data, rows_max)
}

/// The values of the one list that the datatype has its values in; the others must be empty.
fn data<'c>(name: &'c str, datatype: &str, contents: &'c TensorContents) -> Result<Data<'c>, String> {
    let TensorContents { bools, ints, int64s, uints, uint64s, floats, doubles, texts } = contents;
    let lengths =
        [bools.len(), ints.len(), int64s.len(), uints.len(), uint64s.len(), floats.len(), doubles.len(), texts.len()];
    // What is no datatype the tensor says.
    let kind = Datatype::of(datatype).unwrap_or(Datatype::Bytes);
    let (own, values): (usize, Box<dyn Iterator<Item = Result<Scalar<'c>, String>> + 'c>) = match kind {
        Datatype::Bool => (0, Box::new(bools.iter().map(|value| Ok(Scalar::Bool(*value))))),
        Datatype::Signed(8) => (2, Box::new(int64s.iter().map(|value| Ok(Scalar::Integer(*value))))),
        Datatype::Signed(size) => {
            let read = move |value: &i32| ranged(name, narrow(*value, size), Scalar::Integer(i64::from(*value)));
            (1, Box::new(ints.iter().map(read)))
        }
        Datatype::Unsigned(8) => (4, Box::new(uint64s.iter().map(|value| Ok(Scalar::Unsigned(*value))))),
        Datatype::Unsigned(size) => {
            let fits = move |value: &u32| u64::from(*value) < 1 << (8 * size);
            let read = move |value: &u32| ranged(name, fits(value), Scalar::Unsigned(u64::from(*value)));
            (3, Box::new(uints.iter().map(read)))
        }
        Datatype::Float(4) => (5, Box::new(floats.iter().map(|value| Ok(Scalar::Float(shortest(*value)))))),
        Datatype::Float(_) => (6, Box::new(doubles.iter().map(|value| Ok(Scalar::Float(*value))))),
        Datatype::Bytes => (7, Box::new(texts.iter().map(move |text| utf8(name, text)))),
    };
    if lengths.iter().enumerate().any(|(list, length)| list != own && *length > 0) {
        return Err(format!("tensor {name:?} has contents of another type than {datatype}"));
    }
    Ok(Data::Typed(lengths[own], values))
}

/// Whether a number fits so many bytes with its sign.
fn narrow(value: i32, size: usize) -> bool {
    let bound = 1_i64 << (8 * size - 1);
    (-bound..bound).contains(&i64::from(value))
}

fn ranged<'a>(name: &str, fits: bool, value: Scalar<'a>) -> Result<Scalar<'a>, String> {
    if fits { Ok(value) } else { Err(format!("tensor {name:?} has the value {value:?}, which is not of its datatype")) }
}

fn utf8<'a>(name: &str, text: &'a [u8]) -> Result<Scalar<'a>, String> {
    let text = std::str::from_utf8(text).map_err(|_| format!("tensor {name:?} has a value that is not UTF-8"))?;
    Ok(Scalar::Text(text.into()))
}

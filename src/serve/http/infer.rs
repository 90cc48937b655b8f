//! An inference request of the Open Inference Protocol v2, and its answer. Input is one tensor for each field, or one named
//! `features` of JSON objects; output is `probability` and `logit`, FP64 `[N]`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::answer::HttpRefusal;
use super::rows::{self, OUTPUTS};
use super::tensor::{Data, Tensor};
use crate::serve::scorer::{Predictions, ScoreRequest, Scorer};

/// The JSON of a request.
#[derive(Debug, Deserialize)]
pub(super) struct InferRequest<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
    #[serde(borrow)]
    inputs: Vec<InferInput<'a>>,
    #[serde(default)]
    outputs: Vec<InferOutput>,
}

#[derive(Debug, Deserialize)]
struct InferInput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    shape: Vec<u64>,
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct InferOutput {
    name: String,
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
}

/// An answer: JSON, and what follows it.
pub(super) struct Answer {
    pub(super) json: Value,
    /// Binary tensors, if some were asked for.
    pub(super) binary: Option<Vec<u8>>,
}

/// What the endpoint does with a body, without HTTP and arms: the JSON of its answer, and the binary tensors behind it. For fuzzing,
/// which would be slow through sockets.
///
/// # Errors
/// As the endpoint refuses the body.
#[doc(hidden)]
pub fn infer_body(
    scorer: &mut Scorer,
    body: &[u8],
    json_bytes: Option<usize>,
) -> Result<(Value, Option<Vec<u8>>), HttpRefusal> {
    let (request, binary) = InferRequest::read(body, json_bytes)?;
    let _ = request.key();
    let Answer { json, binary } = request.score(binary, scorer.request()?, Map::new(), |_| ())?;
    Ok((json, binary))
}

fn is_set(parameters: &BTreeMap<String, Value>, name: &str) -> Option<bool> {
    parameters.get(name).and_then(Value::as_bool)
}

impl<'a> InferRequest<'a> {
    /// The JSON of a body, and the bytes that follow it.
    pub(super) fn read(body: &'a [u8], json_bytes: Option<usize>) -> Result<(Self, &'a [u8]), HttpRefusal> {
        let (json, binary) = match json_bytes {
            None => (body, &body[..0]),
            Some(length) => body.split_at_checked(length).ok_or_else(|| {
                let found = body.len();
                HttpRefusal::BadRequest(format!("the header says that {length} bytes are JSON, the body has {found}"))
            })?,
        };
        let request =
            serde_json::from_slice(json).map_err(|error| HttpRefusal::BadRequest(format!("the request: {error}")))?;
        Ok((request, binary))
    }

    /// What the arm is chosen by.
    pub(super) fn key(&self) -> Option<String> {
        match self.parameters.get("key")? {
            Value::String(key) => Some(key.clone()),
            other => Some(other.to_string()),
        }
    }

    /// Reads the rows and scores them; `note` hears of the scores.
    pub(super) fn score(
        &self,
        binary: &[u8],
        request: ScoreRequest<'_>,
        mut about: Map<String, Value>,
        note: impl FnOnce(&Predictions<'_>),
    ) -> Result<Answer, HttpRefusal> {
        rows::check_outputs(self.outputs.iter().map(|output| output.name.as_str()))?;
        let names = self.inputs.iter().map(|input| &*input.name);
        rows::check_inputs(names, request.model().encoder().fields().len())?;
        let tensors = self.tensors(binary, request.rows_max())?;
        let predictions = rows::score(request, &tensors)?;
        note(&predictions);
        about.insert("unknown_fields".to_owned(), predictions.unknown_fields.into());
        Ok(self.answer(&predictions, &about))
    }

    fn tensors<'t>(&'t self, mut binary: &'t [u8], rows_max: usize) -> Result<Vec<Tensor<'t>>, HttpRefusal> {
        let mut tensors: Vec<Tensor<'_>> = Vec::with_capacity(self.inputs.len());
        for InferInput { name, datatype, shape, parameters, data } in &self.inputs {
            let data = match (data, parameters.get("binary_data_size")) {
                (Some(json), None) => Data::Json(json),
                (None, Some(size)) => {
                    let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
                    let parts = size.and_then(|size| binary.split_at_checked(size));
                    let (own, rest) = parts.ok_or_else(|| {
                        HttpRefusal::BadRequest(format!("tensor {name:?} has more binary data than the body has left"))
                    })?;
                    binary = rest;
                    Data::Raw(own)
                }
                _ => {
                    return Err(HttpRefusal::BadRequest(format!(
                        "tensor {name:?} has not either data or binary_data_size"
                    )));
                }
            };
            tensors.push(Tensor::read(name, datatype, shape, data, rows_max).map_err(HttpRefusal::BadRequest)?);
        }
        if !binary.is_empty() {
            return Err(HttpRefusal::BadRequest(format!("{} bytes of binary data belong to no tensor", binary.len())));
        }
        Ok(tensors)
    }

    fn answer(&self, predictions: &Predictions<'_>, about: &Map<String, Value>) -> Answer {
        let by_default = is_set(&self.parameters, "binary_data_output").unwrap_or(false);
        let asked: Vec<(&str, bool)> = if self.outputs.is_empty() {
            OUTPUTS.map(|name| (name, by_default)).to_vec()
        } else {
            let is_binary = |output: &InferOutput| is_set(&output.parameters, "binary_data").unwrap_or(by_default);
            self.outputs.iter().map(|output| (output.name.as_str(), is_binary(output))).collect()
        };
        let mut binary = Vec::new();
        let mut outputs = Vec::new();
        for (name, is_binary) in &asked {
            let values = rows::output(predictions, name);
            let shape = [predictions.logits.len()];
            let mut output = json!({"name": name, "datatype": "FP64", "shape": shape});
            if *is_binary {
                let before = binary.len();
                values.for_each(|value| binary.extend_from_slice(&value.to_le_bytes()));
                output["parameters"] = json!({"binary_data_size": binary.len() - before});
            } else {
                output["data"] = values.collect::<Vec<f64>>().into();
            }
            outputs.push(output);
        }
        let manifest = predictions.model.manifest();
        let mut answer = json!({
            "model_name": manifest.model,
            "model_version": manifest.version.to_string(),
            "parameters": about,
            "outputs": outputs,
        });
        if let Some(id) = &self.id {
            answer["id"] = json!(id);
        }
        Answer { json: answer, binary: asked.iter().any(|(_, is_binary)| *is_binary).then_some(binary) }
    }
}

//! What an inference is, whichever way it is asked for: which outputs there are, which tensors stand together, and how they
//! become rows that are scored.

use std::collections::BTreeSet;

use super::answer::HttpRefusal;
use super::tensor::Tensor;
use crate::serve::scorer::{Predictions, RowPlace, ScoreRequest, probability};

/// The input of rows as JSON objects, unless the model has a field of this name.
pub(super) const ROWS: &str = "features";

/// What can be asked for.
pub(super) const OUTPUTS: [&str; 2] = ["probability", "logit"];

/// The values of an output, in the order of the rows.
pub(super) fn output<'p>(predictions: &'p Predictions<'_>, name: &str) -> impl Iterator<Item = f64> + 'p {
    let is_logit = name == "logit";
    predictions.logits.iter().map(move |logit| if is_logit { *logit } else { probability(*logit) })
}

/// Refuses outputs that there are not, and those that are asked for twice: each has a value for every row, and an answer is as
/// long as its rows, whatever is asked for.
pub(super) fn check_outputs<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), HttpRefusal> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !OUTPUTS.contains(&name) {
            return Err(HttpRefusal::BadRequest(format!("there is no output {name:?}")));
        }
        if !seen.insert(name) {
            return Err(HttpRefusal::BadRequest(format!("output {name:?} is there twice")));
        }
    }
    Ok(())
}

/// One for each field, or the rows, under names of their own: what is more is refused before it is looked at.
pub(super) fn check_inputs<'a>(
    names: impl ExactSizeIterator<Item = &'a str>,
    fields: usize,
) -> Result<(), HttpRefusal> {
    let (found, most) = (names.len(), fields + 1);
    if found > most {
        return Err(HttpRefusal::BadRequest(format!("there are {found} inputs, the model takes {most} at most")));
    }
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(HttpRefusal::BadRequest(format!("tensor {name:?} is there twice")));
        }
    }
    Ok(())
}

/// Scores the rows of tensors, which must have as many each.
pub(super) fn score<'s>(request: ScoreRequest<'s>, tensors: &[Tensor<'_>]) -> Result<Predictions<'s>, HttpRefusal> {
    let Some((first, others)) = tensors.split_first() else {
        return Err(HttpRefusal::BadRequest("there are no inputs".to_owned()));
    };
    if let Some(other) = others.iter().find(|other| other.rows != first.rows) {
        let (one, rows, another, found) = (first.name, first.rows, other.name, other.rows);
        let said = format!("tensor {one:?} has {rows} rows, tensor {another:?} has {found}");
        return Err(HttpRefusal::BadRequest(said));
    }
    if tensors.len() == 1 && first.name == ROWS && request.model().encoder().field(ROWS).is_none() {
        return score_objects(request, first);
    }
    score_columns(request, tensors)
}

/// Scores rows that are JSON objects.
fn score_objects<'s>(mut request: ScoreRequest<'s>, rows: &Tensor<'_>) -> Result<Predictions<'s>, HttpRefusal> {
    if rows.width != 1 {
        let said = format!("tensor {ROWS:?} has shape [N, {}], not [N] or [N, 1]", rows.width);
        return Err(HttpRefusal::BadRequest(said));
    }
    for row in 0..rows.rows {
        let Some(text) = rows.text(row) else {
            return Err(HttpRefusal::BadRequest(format!("row {row} of tensor {ROWS:?} is no text of a JSON object")));
        };
        request.push_json(RowPlace::Row(row), text.as_bytes())?;
    }
    Ok(request.score()?)
}

/// Scores rows of which every tensor has a field.
fn score_columns<'s>(mut request: ScoreRequest<'s>, tensors: &[Tensor<'_>]) -> Result<Predictions<'s>, HttpRefusal> {
    let encoder = request.model().encoder();
    let mut fields = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let unknown =
            || HttpRefusal::BadRequest(format!("there is no input {:?}: the model has no such field", tensor.name));
        fields.push(encoder.field(tensor.name).ok_or_else(unknown)?);
    }
    for row in 0..tensors.first().map_or(0, |tensor| tensor.rows) {
        request.push(RowPlace::Row(row), |encoder, encoding| {
            let mut columns = tensors.iter().zip(&fields);
            columns.try_for_each(|(tensor, field)| tensor.encode(row, *field, encoder, encoding))
        })?;
    }
    Ok(request.score()?)
}

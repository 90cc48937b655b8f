//! Scores requests, each with exactly one version. Memory is used again from request to request: after a first request of its
//! size, one whose strings have no escapes allocates nothing.

use std::fmt;
use std::sync::Arc;

use deepfm_core::feature::Entry;
use deepfm_core::feature::encoder::{Encoder, Encoding, Misfit};
use deepfm_core::version::scoring::{Rows, ScoringWork};

use super::current::{Current, Reader};
use super::model::ServedModel;

/// A request that has no scores.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum ScoreError {
    /// No version was loaded yet.
    #[error("no version is served yet")]
    NoVersion,
    /// A row does not encode.
    #[error("{place}: {source}")]
    Features { place: RowPlace, source: Misfit },
    /// The document is not one of this kind.
    #[error("{0}")]
    Body(String),
    /// There are more rows than allowed.
    #[error("more than {0} rows")]
    TooManyRows(usize),
    /// A field is in the context and in a candidate.
    #[error("field {field:?} is in the context and in candidate {candidate}")]
    InBoth { field: String, candidate: usize },
    /// Weights of its values took a score beyond what a number can be.
    #[error("{0} has no finite score")]
    NotFinite(RowPlace),
}

/// Which row of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowPlace {
    /// One of rows that stand alone, from 0.
    Row(usize),
    /// What the candidates share.
    Context,
    /// A candidate, from 0.
    Candidate(usize),
}

impl fmt::Display for RowPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(number) => write!(f, "row {number}"),
            Self::Context => f.write_str("context"),
            Self::Candidate(number) => write!(f, "candidate {number}"),
        }
    }
}

/// Scores with the version of the moment. One for each thread or connection; it keeps the version that it last used in memory until its
/// next request, or until it is [refreshed](Self::refresh).
#[derive(Debug)]
pub struct Scorer {
    reader: Reader,
    rows_max: usize,
    memory: Memory,
}

#[derive(Debug, Default)]
struct Memory {
    encoding: Encoding,
    /// The entries of all rows, one row after the other.
    entries: Vec<(u16, Entry)>,
    /// Where each row ends.
    ends: Vec<usize>,
    unknown_fields: u64,
    is_in_context: Vec<bool>,
    work: ScoringWork,
    logits: Vec<f64>,
}

/// The scores of a request, and the version that gave them.
#[derive(Debug)]
pub struct Predictions<'s> {
    /// The version.
    pub model: &'s Arc<ServedModel>,
    /// The logit of each row or candidate, in their order.
    pub logits: &'s [f64],
    /// Features of no field of the model, which score nothing.
    pub unknown_fields: u64,
}

impl Predictions<'_> {
    /// The number of the version.
    pub fn version(&self) -> u64 {
        self.model.version()
    }

    /// The click probabilities, in order.
    pub fn probabilities(&self) -> impl Iterator<Item = f64> + '_ {
        self.logits.iter().copied().map(probability)
    }
}

/// The probability of a logit.
pub fn probability(logit: f64) -> f64 {
    deepfm_core::model::loss::sigmoid(logit)
}

impl Scorer {
    pub(super) fn new(current: Arc<Current>, rows_max: usize) -> Self {
        Self { reader: Reader::of(current), rows_max, memory: Memory::default() }
    }

    /// The most rows or candidates of one request.
    pub fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Takes the newest version, and lets go of the one before: for whoever has had no request for a while.
    pub fn refresh(&mut self) -> Option<&Arc<ServedModel>> {
        self.reader.model()
    }

    /// Scores rows, each a JSON object of features as it stands in an impression.
    ///
    /// # Errors
    /// When no version is served yet, there are too many rows, or one cannot be scored.
    pub fn score<'r>(&mut self, rows: impl IntoIterator<Item = &'r [u8]>) -> Result<Predictions<'_>, ScoreError> {
        let mut request = self.request()?;
        for (number, row) in rows.into_iter().enumerate() {
            request.push_json(RowPlace::Row(number), row)?;
        }
        request.score()
    }

    /// Scores candidates that share a context, whose part is computed once. A field is in the context or in candidates.
    ///
    /// # Errors
    /// As [`score`](Self::score), and when a field is in both.
    pub fn rank<'r>(
        &mut self,
        context: &[u8],
        candidates: impl IntoIterator<Item = &'r [u8]>,
    ) -> Result<Predictions<'_>, ScoreError> {
        let mut request = self.request()?;
        request.push_json(RowPlace::Context, context)?;
        for (number, candidate) in candidates.into_iter().enumerate() {
            request.push_json(RowPlace::Candidate(number), candidate)?;
        }
        request.rank(0)
    }

    /// Begins a request of the version of the moment, with which it is encoded and scored.
    ///
    /// # Errors
    /// When no version is served yet.
    pub fn request(&mut self) -> Result<ScoreRequest<'_>, ScoreError> {
        let model = self.reader.model().ok_or(ScoreError::NoVersion)?;
        let memory = &mut self.memory;
        memory.entries.clear();
        memory.ends.clear();
        memory.unknown_fields = 0;
        Ok(ScoreRequest { model, rows_max: self.rows_max, memory })
    }
}

/// A request that is being read, row by row.
#[derive(Debug)]
pub struct ScoreRequest<'s> {
    model: &'s Arc<ServedModel>,
    rows_max: usize,
    memory: &'s mut Memory,
}

impl<'s> ScoreRequest<'s> {
    /// The version that it will be scored with.
    pub fn model(&self) -> &'s Arc<ServedModel> {
        self.model
    }

    /// The most rows that it may have.
    pub fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Rows read so far.
    pub fn rows(&self) -> usize {
        self.memory.ends.len()
    }

    /// Adds a row, as a JSON object of features.
    ///
    /// # Errors
    /// When it does not encode, or is one too many.
    pub fn push_json(&mut self, place: RowPlace, features: &[u8]) -> Result<(), ScoreError> {
        self.push(place, |encoder, encoding| encoder.encode_into(features, encoding))
    }

    /// Adds a row that is encoded by `encode`, into an encoding that is clear.
    ///
    /// # Errors
    /// When it does not encode, or is one too many.
    pub fn push(
        &mut self,
        place: RowPlace,
        encode: impl FnOnce(&Encoder, &mut Encoding) -> Result<(), Misfit>,
    ) -> Result<(), ScoreError> {
        let (encoder, encoding) = self.encoding()?;
        encode(encoder, encoding).map_err(|source| ScoreError::Features { place, source })?;
        self.end_row();
        Ok(())
    }

    /// What a row is encoded into, if there is room for one.
    pub(super) fn encoding(&mut self) -> Result<(&'s Encoder, &mut Encoding), ScoreError> {
        // One more: a ranking has its context beside the candidates.
        if self.rows() > self.rows_max {
            return Err(ScoreError::TooManyRows(self.rows_max));
        }
        self.memory.encoding.clear(self.model.encoder().fields().len());
        Ok((self.model.encoder(), &mut self.memory.encoding))
    }

    /// The row that was encoded is whole.
    pub(super) fn end_row(&mut self) {
        let Memory { encoding, entries, ends, unknown_fields, .. } = &mut *self.memory;
        entries.extend_from_slice(encoding.entries());
        ends.push(entries.len());
        *unknown_fields += u64::from(encoding.unknown_fields);
    }

    /// The scores of all rows.
    ///
    /// # Errors
    /// When there are too many rows, or one has no finite score.
    pub fn score(self) -> Result<Predictions<'s>, ScoreError> {
        if self.rows() > self.rows_max {
            return Err(ScoreError::TooManyRows(self.rows_max));
        }
        let Memory { entries, ends, work, logits, .. } = &mut *self.memory;
        logits.clear();
        self.model.scoring().score(Rows { entries, start: 0, ends }, work, logits);
        if let Some(row) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(ScoreError::NotFinite(RowPlace::Row(row)));
        }
        Ok(self.predictions())
    }

    /// The scores of all rows but one, which is their context.
    ///
    /// # Errors
    /// When a field is in the context and in a candidate, there are too many, or one has no finite score.
    pub fn rank(self, context: usize) -> Result<Predictions<'s>, ScoreError> {
        let Memory { entries, ends, is_in_context, work, logits, .. } = &mut *self.memory;
        let fields = self.model.encoder().fields();
        let entries_of = |row: usize| &entries[if row == 0 { 0 } else { ends[row - 1] }..ends[row]];
        is_in_context.clear();
        is_in_context.resize(fields.len(), false);
        for (field, _) in entries_of(context) {
            is_in_context[usize::from(*field)] = true;
        }
        for (candidate, row) in (0..ends.len()).filter(|row| *row != context).enumerate() {
            if let Some((field, _)) = entries_of(row).iter().find(|(field, _)| is_in_context[usize::from(*field)]) {
                let field = fields.as_slice()[usize::from(*field)].name.clone();
                return Err(ScoreError::InBoth { field, candidate });
            }
        }
        let scoring = self.model.scoring();
        scoring.set_context(entries_of(context), work);
        logits.clear();
        let before = Rows { entries, start: 0, ends: &ends[..context] };
        let behind = Rows { entries, start: ends[context], ends: &ends[context + 1..] };
        for candidates in [before, behind] {
            scoring.score_candidates(candidates, work, logits);
        }
        if let Some(candidate) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(ScoreError::NotFinite(RowPlace::Candidate(candidate)));
        }
        Ok(self.predictions())
    }

    fn predictions(self) -> Predictions<'s> {
        let Self { model, memory, .. } = self;
        Predictions { model, logits: &memory.logits, unknown_fields: memory.unknown_fields }
    }
}

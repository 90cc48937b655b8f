//! Reads a ranking while its JSON is read: features go straight into the encoder, whatever order the keys have.

use std::fmt;

use deepfm_core::feature::encoder::{CowStr, FeaturesSeed};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::scorer::{Predictions, RowPlace, ScoreError, ScoreRequest, Scorer};

impl Scorer {
    /// Ranks the candidates of one document, `{"context": {…}, "candidates": [{…}, …]}`, whose other keys are passed over.
    ///
    /// # Errors
    /// As [`rank`](Self::rank), and when it is no such document.
    pub fn rank_body(&mut self, body: &[u8]) -> Result<Predictions<'_>, ScoreError> {
        let mut request = self.request()?;
        let context = read(&mut request, body)?;
        request.rank(context)
    }
}

/// Reads a document into a request that has no rows yet; the row that is the context.
///
/// # Errors
/// When it is not such a document, has too many candidates, or features do not fit.
fn read(request: &mut ScoreRequest<'_>, body: &[u8]) -> Result<usize, ScoreError> {
    let mut reading = Reading { request, context: None, has_candidates: false, candidates: 0, refused: None };
    // What is UTF-8 as a whole is not looked at again, string by string.
    let read = match std::str::from_utf8(body) {
        Ok(text) => read_document(serde_json::Deserializer::from_str(text), &mut reading),
        Err(_) => read_document(serde_json::Deserializer::from_slice(body), &mut reading),
    };
    if let Err(error) = read {
        return Err(reading.refused.unwrap_or_else(|| ScoreError::Body(error.to_string())));
    }
    match reading.context {
        Some(context) if reading.has_candidates => Ok(context),
        Some(_) => Err(ScoreError::Body("there are no candidates".to_owned())),
        None => Err(ScoreError::Body("there is no context".to_owned())),
    }
}

fn read_document<'de, R: serde_json::de::Read<'de>>(
    mut reader: serde_json::Deserializer<R>,
    reading: &mut Reading<'_, '_>,
) -> serde_json::Result<()> {
    Document(reading).deserialize(&mut reader)?;
    reader.end()
}

struct Reading<'r, 's> {
    request: &'r mut ScoreRequest<'s>,
    context: Option<usize>,
    has_candidates: bool,
    candidates: usize,
    refused: Option<ScoreError>,
}

impl Reading<'_, '_> {
    fn refuse<E: de::Error>(&mut self, error: ScoreError) -> E {
        self.refused = Some(error);
        E::custom("refused")
    }

    fn refuse_body<E: de::Error>(&mut self, what: &str) -> E {
        self.refuse(ScoreError::Body(what.to_owned()))
    }
}

struct Document<'a, 'r, 's>(&'a mut Reading<'r, 's>);

impl<'de> DeserializeSeed<'de> for Document<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with context and candidates")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(reading) = self;
        while let Some(key) = map.next_key::<CowStr<'de>>()? {
            match &*key.0 {
                "context" if reading.context.is_some() => return Err(reading.refuse_body("context is there twice")),
                "context" => {
                    reading.context = Some(reading.request.rows());
                    map.next_value_seed(Row(reading, RowPlace::Context))?;
                }
                "candidates" if reading.has_candidates => {
                    return Err(reading.refuse_body("candidates are there twice"));
                }
                "candidates" => {
                    reading.has_candidates = true;
                    map.next_value_seed(Candidates(reading))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Candidates<'a, 'r, 's>(&'a mut Reading<'r, 's>);

impl<'de> DeserializeSeed<'de> for Candidates<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Candidates<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of candidates")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self(reading) = self;
        loop {
            let place = RowPlace::Candidate(reading.candidates);
            if list.next_element_seed(Row(reading, place))?.is_none() {
                return Ok(());
            }
            reading.candidates += 1;
        }
    }
}

/// One object of features.
struct Row<'a, 'r, 's>(&'a mut Reading<'r, 's>, RowPlace);

impl<'de> DeserializeSeed<'de> for Row<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self(reading, place) = self;
        let (encoder, encoding) = match reading.request.encoding() {
            Ok(found) => found,
            Err(error) => return Err(reading.refuse(error)),
        };
        let read = FeaturesSeed { encoder, encoding: &mut *encoding }.deserialize(deserializer);
        if let Some(source) = encoding.misfit.take() {
            return Err(reading.refuse(ScoreError::Features { place, source }));
        }
        read?;
        reading.request.end_row();
        Ok(())
    }
}

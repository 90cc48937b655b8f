//! Answers that are no scores: every error is a status and one JSON object with its reason.

use axum::Json;
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::serve::scorer::ScoreError;

/// A request that has no scores.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpRefusal {
    /// It does not fit.
    #[error("{0}")]
    BadRequest(String),
    /// What it asks for is not here.
    #[error("{0}")]
    NotFound(String),
    /// The path has other methods.
    #[error("the path has other methods")]
    Method,
    /// Its body did not come whole in time.
    #[error("the body did not come whole within {0} s")]
    TooSlow(u64),
    /// Its body ended before its end.
    #[error("the body did not come whole: {0}")]
    Half(String),
    /// Its body is too long.
    #[error("the body has more than {0} bytes")]
    TooLong(usize),
    /// Its body is compressed.
    #[error("the content encoding {0:?} is not taken")]
    Encoded(String),
    /// There are too many at once.
    #[error("{0} requests are being answered already")]
    Busy(usize),
    /// No version is served yet.
    #[error("no version is served yet")]
    NoVersion,
}

impl HttpRefusal {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::Half(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Encoded(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy(_) | Self::NoVersion => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<ScoreError> for HttpRefusal {
    fn from(error: ScoreError) -> Self {
        match error {
            ScoreError::NoVersion => Self::NoVersion,
            error => Self::BadRequest(error.to_string()),
        }
    }
}

impl IntoResponse for HttpRefusal {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(json!({"error": self.to_string()}))).into_response();
        if matches!(self, Self::Busy(_) | Self::NoVersion) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // What is left of such a body nobody waits for.
        if matches!(self, Self::TooSlow(_) | Self::TooLong(_) | Self::Half(_)) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

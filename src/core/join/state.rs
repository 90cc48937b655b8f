//! The states of a held impression, and what a click or the end of its window makes of each.
//!
//! Only states that may still be learned from hold the payload `P`.

use serde::{Deserialize, Serialize};

use crate::event::Id;

use super::params::{LabelPolicy, LatePolicy};
use super::record::EmissionKind;

/// What is known of an impression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ImpressionState<P> {
    /// It may be clicked, nothing has been emitted.
    Open(P),
    /// It has been clicked and waits for the end of its window (emit `at_maturity`).
    Clicked(P, Attributed),
    /// It may be clicked, a fake negative has been emitted.
    Faked(P),
    /// Its window passed without a click; the payload stays where late clicks are learned.
    Negative(Option<P>),
    /// It was clicked in time.
    Positive,
    /// It was clicked in time, which was learned late.
    Corrected,
    /// It has no label and will have none.
    Unlabelled,
}

/// The click that an impression owes its label to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributed {
    /// When it was clicked, in milliseconds.
    pub time: i64,
    /// The click's event id, if it has one.
    pub event_id: Option<Id>,
}

/// A label to be emitted.
pub(super) struct Label<P> {
    pub(super) kind: EmissionKind,
    pub(super) click: Option<Attributed>,
    pub(super) payload: P,
}

/// What a click within the window does.
pub(super) enum ClickEffect<P> {
    /// It is held back until the window ends.
    HeldBack,
    /// It makes the label.
    Label(Label<P>),
    /// It comes after the final negative; the label corrects that, if there is one.
    Late(Option<Label<P>>),
    /// The impression has its click already.
    Extra,
    /// The impression is closed unlabelled.
    Unlabelled,
}

impl<P> ImpressionState<P> {
    /// Whether the end of the window is still to come.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Open(_) | Self::Clicked(..) | Self::Faked(_) => true,
            Self::Negative(_) | Self::Positive | Self::Corrected | Self::Unlabelled => false,
        }
    }

    /// The payload, while it is held.
    pub(super) fn payload(&self) -> Option<&P> {
        match self {
            Self::Open(payload) | Self::Clicked(payload, _) | Self::Faked(payload) => Some(payload),
            Self::Negative(payload) => payload.as_ref(),
            Self::Positive | Self::Corrected | Self::Unlabelled => None,
        }
    }

    /// The same state over its payload as it lies there.
    pub(super) fn as_ref(&self) -> ImpressionState<&P> {
        match self {
            Self::Open(payload) => ImpressionState::Open(payload),
            Self::Clicked(payload, click) => ImpressionState::Clicked(payload, click.clone()),
            Self::Faked(payload) => ImpressionState::Faked(payload),
            Self::Negative(payload) => ImpressionState::Negative(payload.as_ref()),
            Self::Positive => ImpressionState::Positive,
            Self::Corrected => ImpressionState::Corrected,
            Self::Unlabelled => ImpressionState::Unlabelled,
        }
    }

    /// The same state over another form of its payload.
    pub(super) fn map<Q>(self, form: impl FnOnce(P) -> Q) -> ImpressionState<Q> {
        match self {
            Self::Open(payload) => ImpressionState::Open(form(payload)),
            Self::Clicked(payload, click) => ImpressionState::Clicked(form(payload), click),
            Self::Faked(payload) => ImpressionState::Faked(form(payload)),
            Self::Negative(payload) => ImpressionState::Negative(payload.map(form)),
            Self::Positive => ImpressionState::Positive,
            Self::Corrected => ImpressionState::Corrected,
            Self::Unlabelled => ImpressionState::Unlabelled,
        }
    }
}

impl<P> Label<P> {
    /// The same label over another form of its payload.
    pub(super) fn map<Q>(self, form: impl FnOnce(P) -> Q) -> Label<Q> {
        let Self { kind, click, payload } = self;
        Label { kind, click, payload: form(payload) }
    }
}

impl<P> ClickEffect<P> {
    /// The same effect over another form of the payload.
    pub(super) fn map<Q>(self, form: impl FnOnce(P) -> Q) -> ClickEffect<Q> {
        match self {
            Self::HeldBack => ClickEffect::HeldBack,
            Self::Label(label) => ClickEffect::Label(label.map(form)),
            Self::Late(label) => ClickEffect::Late(label.map(|label| label.map(form))),
            Self::Extra => ClickEffect::Extra,
            Self::Unlabelled => ClickEffect::Unlabelled,
        }
    }
}

impl<P: Copy> ImpressionState<P> {
    /// What a click within the window makes of the impression.
    pub(super) fn clicked(self, click: Attributed, labels: LabelPolicy, late: LatePolicy) -> (Self, ClickEffect<P>) {
        let label = |kind, payload, click| Label { kind, click: Some(click), payload };
        match (self, late) {
            (Self::Open(payload), _) => match labels {
                LabelPolicy::AtMaturity => (Self::Clicked(payload, click), ClickEffect::HeldBack),
                LabelPolicy::AtClick | LabelPolicy::FakeNegative => {
                    (Self::Positive, ClickEffect::Label(label(EmissionKind::Positive, payload, click)))
                }
            },
            (Self::Faked(payload), _) => {
                (Self::Positive, ClickEffect::Label(label(EmissionKind::FakePositive, payload, click)))
            }
            (Self::Negative(Some(payload)), LatePolicy::Correct) => {
                let kind = match labels {
                    LabelPolicy::AtClick | LabelPolicy::AtMaturity => EmissionKind::Correction,
                    LabelPolicy::FakeNegative => EmissionKind::FakePositive,
                };
                (Self::Corrected, ClickEffect::Late(Some(label(kind, payload, click))))
            }
            (state @ Self::Negative(_), _) => (state, ClickEffect::Late(None)),
            (state @ (Self::Clicked(..) | Self::Positive | Self::Corrected), _) => (state, ClickEffect::Extra),
            (Self::Unlabelled, _) => (Self::Unlabelled, ClickEffect::Unlabelled),
        }
    }

    /// What the end of the window makes of the impression; no label if it was not open.
    pub(super) fn matured(self, late: LatePolicy) -> (Self, Option<Label<P>>) {
        let label = |kind, click, payload| Some(Label { kind, click, payload });
        match (self, late) {
            (Self::Open(payload), LatePolicy::Drop) => {
                (Self::Negative(None), label(EmissionKind::Negative, None, payload))
            }
            (Self::Open(payload), LatePolicy::Correct) => {
                (Self::Negative(Some(payload)), label(EmissionKind::Negative, None, payload))
            }
            (Self::Clicked(payload, click), _) => (Self::Positive, label(EmissionKind::Positive, Some(click), payload)),
            (Self::Faked(payload), LatePolicy::Drop) => {
                (Self::Negative(None), label(EmissionKind::Matured, None, payload))
            }
            (Self::Faked(payload), LatePolicy::Correct) => {
                (Self::Negative(Some(payload)), label(EmissionKind::Matured, None, payload))
            }
            (state @ (Self::Negative(_) | Self::Positive | Self::Corrected | Self::Unlabelled), _) => (state, None),
        }
    }
}

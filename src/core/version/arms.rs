//! Arms of a comparison, as people write them: each follows a target of its own and gets a share of the requests.

use std::str::FromStr;

pub use super::acknowledgement::ARMS_MAX;
use super::target::Target;

/// The name of the arm where there is one only.
pub const ONLY: &str = "default";

/// The most characters of an arm's name.
const NAME_CHARS_MAX: usize = 64;

/// An arm as it is asked for: `NAME=TARGET:SHARE`.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmSpec {
    /// Its name, which answers have.
    pub name: String,
    /// What it follows.
    pub target: Target,
    /// Its share of the requests, in (0, 1].
    pub share: f64,
}

/// Arms that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ArmError {
    /// It is not written as one.
    #[error("{0:?} is no arm: write NAME=TARGET:SHARE, such as control=live:0.9")]
    Form(String),
    /// Two have one name.
    #[error("two arms are named {0:?}")]
    Twice(String),
    /// There are too many.
    #[error("{0} arms are more than {ARMS_MAX}")]
    Many(usize),
    /// Shares do not come to one.
    #[error("the shares of the arms come to {0}, not to 1")]
    Shares(f64),
}

impl FromStr for ArmSpec {
    type Err = ArmError;

    fn from_str(text: &str) -> Result<Self, ArmError> {
        let parse = || {
            let (name, rest) = text.split_once('=')?;
            let (target, share) = rest.rsplit_once(':')?;
            let share: f64 = share.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0)?;
            let is_name = !name.is_empty()
                && name.len() <= NAME_CHARS_MAX
                && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter));
            let target = target.parse().ok().filter(|_| !target.is_empty())?;
            is_name.then(|| Self { name: name.to_owned(), target, share })
        };
        parse().ok_or_else(|| ArmError::Form(text.chars().take(100).collect()))
    }
}

/// Checks that arms can stand together.
///
/// # Errors
/// When there are too many, two have one name, or the shares do not come to one.
pub fn check(arms: &[ArmSpec]) -> Result<(), ArmError> {
    if arms.len() > ARMS_MAX {
        return Err(ArmError::Many(arms.len()));
    }
    for (number, arm) in arms.iter().enumerate() {
        if arms[..number].iter().any(|other| other.name == arm.name) {
            return Err(ArmError::Twice(arm.name.clone()));
        }
    }
    let sum: f64 = arms.iter().map(|arm| arm.share).sum();
    if (sum - 1.0).abs() < 1e-6 { Ok(()) } else { Err(ArmError::Shares(sum)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_are_read_as_they_are_written_and_stand_together_or_not() {
        let arm = |text: &str| text.parse::<ArmSpec>();
        let control = arm("control=live:0.9").expect("it is one");
        assert_eq!((control.name.as_str(), &control.target, control.share), ("control", &Target::default(), 0.9));
        assert_eq!(arm("b=17:1").expect("it is one").target, Target::Pinned(17));
        for text in ["", "a", "a=live", "a=:0.5", "=live:0.5", "a=live:0", "a=live:1.5", "a=live:NaN", "a b=live:1"] {
            assert_eq!(arm(text), Err(ArmError::Form(text.to_owned())));
        }
        let other = arm("other=latest:0.1").expect("it is one");
        assert_eq!(check(&[control.clone(), other.clone()]), Ok(()));
        assert_eq!(check(&[control.clone(), control.clone()]), Err(ArmError::Twice("control".to_owned())));
        assert!(matches!(check(&[control]), Err(ArmError::Shares(_))));
        assert!(matches!(check(&vec![other; 17]), Err(ArmError::Many(17))));
    }
}

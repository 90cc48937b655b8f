//! The known name that was probably meant by an unknown one.

/// The name that was begun or cut short, or else the nearest within a typing error or three.
pub(super) fn nearest<'k>(key: &str, keys: &[&'k str]) -> Option<&'k str> {
    let begun = |known: &str| {
        let (short, long) = if known.len() < key.len() { (known, key) } else { (key, known) };
        short.len() >= 4 && long.starts_with(short)
    };
    let allowed = (key.chars().count() / 3).clamp(1, 3);
    keys.iter()
        .map(|known| (if begun(known) { 0 } else { strsim::osa_distance(key, known) }, *known))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_of_neighbours_is_one_error() {
        assert_eq!(nearest("alhpa", &["beta", "alpha"]), Some("alpha"));
        assert_eq!(nearest("l2", &["alpha", "l1", "l21"]), Some("l1"));
        assert_eq!(nearest("kepe", &["keep"]), Some("keep"));
    }

    #[test]
    fn a_key_without_its_unit_is_recognised() {
        let keys = ["attribution_window_seconds", "labels", "emit"];
        assert_eq!(nearest("attribution_window", &keys), Some("attribution_window_seconds"));
        assert_eq!(nearest("wholly_different", &keys), None);
    }
}

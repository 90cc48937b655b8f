//! What was lost, as text: a line a reason, none wider than the terminal.

use deepfm_stream::drive::losses::{LogPlace, Loss};

use super::output::cut;

/// A table of losses; nothing for none.
pub(crate) fn lines(losses: &[Loss], columns: Option<usize>) -> Vec<String> {
    if losses.is_empty() {
        return Vec::new();
    }
    let head = format!("{:>10} {:>8}  not learned, and why", "lost", "share");
    std::iter::once(head).chain(losses.iter().flat_map(|loss| entry(loss, columns))).collect()
}

fn entry(loss: &Loss, columns: Option<usize>) -> Vec<String> {
    let Loss { reason, what, count, of, unit, first, detail } = loss;
    let share = 100.0 * *count as f64 / (*of).max(1) as f64;
    let mut lines = vec![cut(&format!("{count:>10} {share:>6.2} %  {unit} ({reason}): {what}"), columns)];
    if let Some(LogPlace { partition, offset }) = first {
        let detail = detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
        lines.push(cut(&format!("{:>21}first at {partition} offset {offset}{detail}", ""), columns));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_fits_a_terminal_and_carries_no_escape() {
        let loss = Loss {
            reason: "mistyped".to_owned(),
            what: "refused: cannot be read",
            count: u64::MAX / 2,
            of: u64::MAX,
            unit: "records",
            first: Some(LogPlace { partition: "impressions-0".to_owned(), offset: 41 }),
            detail: Some(format!("\u{1b}[2J {}", "long ".repeat(100))),
        };
        let whole = super::lines(std::slice::from_ref(&loss), None);
        assert!(whole[2].ends_with("long long "), "what is no terminal gets all of it: {whole:#?}");
        let bare = super::lines(&[Loss { detail: None, ..loss.clone() }], Some(80));
        assert!(bare[2].ends_with("first at impressions-0 offset 41"), "{bare:#?}");
        let lines = lines(&[loss], Some(80));
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines[1].contains("50.00 %  records (mistyped)"), "{lines:#?}");
        assert!(lines[2].contains("first at impressions-0 offset 41: \u{fffd}[2J long"), "{lines:#?}");
        assert!(super::lines(&[], Some(80)).is_empty());
    }
}

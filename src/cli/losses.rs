//! What was lost, as text: a line a reason, none wider than a terminal of 80 columns.

use deepfm_stream::drive::losses::{LogPlace, Loss};

/// Columns of a line.
const WIDTH: usize = 80;

/// A table of losses; nothing for none.
pub(crate) fn lines(losses: &[Loss]) -> Vec<String> {
    if losses.is_empty() {
        return Vec::new();
    }
    let head = format!("{:>10} {:>8}  not learned, and why", "lost", "share");
    std::iter::once(head).chain(losses.iter().flat_map(entry)).collect()
}

fn entry(loss: &Loss) -> Vec<String> {
    let Loss { reason, what, count, of, unit, first, detail } = loss;
    let share = 100.0 * *count as f64 / (*of).max(1) as f64;
    let mut lines = vec![cut(&format!("{count:>10} {share:>6.2} %  {unit} ({reason}): {what}"))];
    if let Some(LogPlace { partition, offset }) = first {
        let detail = detail.as_deref().unwrap_or_default();
        lines.push(cut(&format!("{:>21}first at {partition} offset {offset}: {detail}", "")));
    }
    lines
}

/// A line without anything that a terminal could take for a command, cut to the width.
pub(crate) fn cut(line: &str) -> String {
    let plain: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if plain.chars().count() <= WIDTH {
        return plain;
    }
    plain.chars().take(WIDTH - 1).chain(['…']).collect()
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
        let lines = lines(&[loss]);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines[1].contains("50.00 %  records (mistyped)"), "{lines:#?}");
        assert!(lines[2].contains("first at impressions-0 offset 41: \u{fffd}[2J long"), "{lines:#?}");
        assert!(super::lines(&[]).is_empty());
    }
}

//! The lines of `deepfm status`, for people: a worker in a few words, and a table of servers that fits 80 columns.

use deepfm_core::version::fleet::{FleetFlag, FleetRow};
use jiff::Timestamp;
use serde_json::Value;

use super::text;

/// The widest that a server's name is where the table has to fit a terminal.
const SERVER_MAX: usize = 20;

/// The widest that an arm's name is there.
const ARM_MAX: usize = 10;

/// A time that has passed, in milliseconds, in four characters or little more.
pub(super) fn ago(ms: i64) -> String {
    let seconds = ms as f64 / 1000.0;
    match seconds {
        _ if seconds < 9.95 => format!("{seconds:.1}s"),
        _ if seconds < 120.0 => format!("{seconds:.0}s"),
        _ if seconds < 7_200.0 => format!("{:.0}m", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.0}h", seconds / 3_600.0),
        _ => format!("{:.0}d", seconds / 86_400.0),
    }
}

/// How long before now a time was.
fn since(time: &str, now_ms: i64) -> Option<String> {
    let time: Timestamp = time.parse().ok()?;
    Some(ago(now_ms.saturating_sub(time.as_millisecond()).max(0)))
}

/// What a worker says of itself, in lines.
pub(super) fn worker(port: &str, status: &Value, now_ms: i64) -> Vec<String> {
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_f64);
    let figure = |pointer: &str| number(pointer).map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let count = |pointer: &str| status.pointer(pointer).map_or_else(|| "-".to_owned(), text);
    let at = |key: &str| status[key].as_str().and_then(|time| since(time, now_ms));
    let made = |what: &str, key: &str| match (&status[what], at(key)) {
        (Value::Null, _) => format!("no {what} yet"),
        (made, None) => format!("{what} {}", text(made)),
        (made, Some(ago)) => format!("{what} {} of {ago} ago", text(made)),
    };
    let waiting: u64 =
        status["partitions"].as_object().into_iter().flatten().filter_map(|(_, one)| one["lag_records"].as_u64()).sum();
    let watermark = status["watermark"].as_i64().map(|watermark| ago(now_ms.saturating_sub(watermark).max(0)));
    let mut lines = vec![
        format!(
            "worker   model {} at http://{port}: {}",
            text(&status["model"]),
            text(&status["phase"]).replace('_', " ")
        ),
        format!("         {}, {}", made("version", "version_at"), made("checkpoint", "checkpoint_at")),
        format!(
            "         {} records, {waiting} wait; {} learned; log known up to {} ago",
            count("/records"),
            count("/counters/learned"),
            watermark.unwrap_or_else(|| "-".to_owned())
        ),
        format!(
            "         last window: log loss {}, AUC {}, calibration {}",
            figure("/window/log_loss"),
            figure("/window/auc"),
            figure("/window/calibration")
        ),
    ];
    if let Some(away) = status.get("brokers_away") {
        lines.push(format!(
            "         the brokers are lost for {:.0} s: {}",
            away["seconds"].as_f64().unwrap_or(0.0),
            text(&away["reason"])
        ));
    }
    if let Some(away) = status.get("storage_away") {
        let ago = away["since"].as_str().and_then(|time| since(time, now_ms)).unwrap_or_else(|| "-".to_owned());
        // The reason has a line of its own: it is long, and what it does to versions is to be seen with it.
        lines.push(format!("         object storage takes no version for {ago}, and none is announced:"));
        lines.push(format!("         {}", text(&away["reason"])));
    }
    if status.pointer("/breaker/is_open") == Some(&Value::Bool(true)) {
        lines.push("         clicks have stalled: nothing is learned or published".to_owned());
    }
    lines
}

/// The servers, one line for each arm, and a line for each that somebody is to look at.
pub(super) fn servers(rows: &[FleetRow], now_ms: i64, columns: Option<usize>) -> Vec<String> {
    if rows.is_empty() {
        return vec!["servers  none has said what it serves".to_owned()];
    }
    let width = |name: &dyn Fn(&FleetRow) -> usize, least: usize, most: usize| {
        let widest = rows.iter().map(name).max().unwrap_or(0).max(least);
        if columns.is_some() { widest.min(most) } else { widest }
    };
    let server = width(&|row| row.server.len(), 6, SERVER_MAX);
    let arm = width(&|row| row.arm.chars().count(), 3, ARM_MAX);
    let head = format!("{:<server$} {:<arm$} version behind   age loaded heard flags", "server", "arm");
    let line = |row: &FleetRow| {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let flags: Vec<&str> = row.flags.iter().map(|flag| flag.name()).collect();
        let line = format!(
            "{:<server$} {:<arm$} {:>7} {:>6} {:>5} {:>6} {:>5} {}",
            fitted(&row.server, server),
            fitted(&row.arm, arm),
            or_none(row.version.map(|version| version.to_string())),
            or_none(row.behind.map(|behind| behind.to_string())),
            or_none(row.age_ms.map(ago)),
            or_none(row.loaded_at.as_deref().and_then(|time| since(time, now_ms))),
            ago(row.heard_ms),
            flags.join(" ")
        );
        line.trim_end().to_owned()
    };
    let flagged = rows.iter().flat_map(|row| row.flags.iter().map(move |flag| (row, *flag)));
    let whys = flagged.map(|(row, flag)| format!("{}: {}", text(&row.server.as_str().into()), why(row, flag)));
    std::iter::once(head).chain(rows.iter().map(line)).chain(whys).collect()
}

/// A name in its column; of one that is too long the end, which tells hosts and ports apart.
fn fitted(name: &str, width: usize) -> String {
    let name = text(&name.into());
    let length = name.chars().count();
    if length <= width { name } else { std::iter::once('…').chain(name.chars().skip(length - width + 1)).collect() }
}

fn why(row: &FleetRow, flag: FleetFlag) -> String {
    let version = row.version.unwrap_or_default();
    match flag {
        FleetFlag::Differs => format!("scores probes of version {version} unlike most servers"),
        FleetFlag::Foreign => format!("serves a version {version} that was never announced"),
        FleetFlag::Silent => format!("not heard of for {}, and has not ended in order", ago(row.heard_ms)),
        FleetFlag::Clock => "its clock is ahead of this one by more than a minute".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_700_000_100_000;

    fn row(server: &str, flags: &[FleetFlag]) -> FleetRow {
        FleetRow {
            server: server.to_owned(),
            arm: "control-of-everything".to_owned(),
            target: "live".to_owned(),
            version: Some(1_234_567),
            behind: Some(-12),
            age_ms: Some(86_399_000),
            loaded_at: Some("2023-11-14T22:14:00Z".to_owned()),
            load_seconds: Some(0.1),
            probes_digest: None,
            heard_ms: 31_000,
            flags: flags.to_vec(),
        }
    }

    #[test]
    fn the_table_of_servers_fits_eighty_columns_and_says_why_one_is_flagged() {
        let name = format!("{}:8000", "a-pod-with-a-name-of-many-parts".repeat(4));
        let rows = [row(&name, &[FleetFlag::Differs, FleetFlag::Silent]), row("b:8000", &[])];
        let lines = servers(&rows, NOW, Some(80));
        assert_eq!(lines.len(), 5, "{lines:#?}");
        for line in &lines[..3] {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(lines[1].contains(":8000 ") && lines[1].ends_with(" 31s differs silent"), "{}", lines[1]);
        assert!(lines[3].contains("unlike most servers") && lines[4].contains("not heard of for 31s"), "{lines:#?}");
        let whole = servers(&rows, NOW, None);
        assert!(whole[1].starts_with(&name) && whole[2].starts_with("b:8000 "), "{whole:#?}");
        assert!(whole[1].contains(" control-of-everything "), "{whole:#?}");
        assert_eq!(servers(&[], NOW, None), ["servers  none has said what it serves"]);
    }

    #[test]
    fn what_a_worker_says_is_told_in_a_few_lines_of_eighty_columns() {
        let status = json!({
            "model": "clicks", "phase": "catching_up", "records": 123_456_789_u64, "version": 41,
            "version_at": "2023-11-14T22:14:00Z", "checkpoint": null, "watermark": NOW - 5_000,
            "counters": {"learned": 98_765_432}, "partitions": {"a/0": {"lag_records": 7}, "a/1": {"lag_records": null}},
            "window": {"log_loss": 0.5, "auc": null, "calibration": 1.0},
            "brokers_away": {"seconds": 4.2, "reason": "nothing\u{1b}[2J listens"}, "breaker": {"is_open": true},
            "storage_away": {"since": "2023-11-14T22:14:00Z", "reason": "507\u{1b}[2J Insufficient Storage"},
        });
        let lines = worker("127.0.0.1:9464", &status, NOW);
        assert_eq!(lines.len(), 8, "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80 && !line.contains('\u{1b}')), "{lines:#?}");
        assert!(
            lines[0].ends_with(": catching up") && lines[1].contains("version 41 of 60s ago, no checkpoint yet"),
            "{lines:#?}"
        );
        assert!(lines[2].contains("123456789 records, 7 wait; 98765432 learned; log known up to 5.0s ago"));
        assert!(lines[5].ends_with("takes no version for 60s, and none is announced:"), "{lines:#?}");
        assert!(lines[6].contains("507") && lines[6].ends_with("Insufficient Storage"), "{lines:#?}");
        // What is not there, or something else, is no reason to fail.
        assert_eq!(worker("a:1", &json!([1]), NOW).len(), 4);
    }

    #[test]
    fn times_that_have_passed_are_short() {
        let times = [0, 9_900, 31_000, 119_000, 120_000, 7_200_000, 172_800_000, i64::MAX].map(ago);
        assert_eq!(times[..7], ["0.0s", "9.9s", "31s", "119s", "2m", "2h", "2d"]);
        assert!(times[7].ends_with('d'));
    }
}

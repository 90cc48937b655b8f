//! Text from outside, made fit for a line of a log, a list or a letter.

/// `text` as one line of at most `chars_max` characters, and an ellipsis if it was cut. What a terminal would obey or a
/// reader would not see (control characters, line ends, marks of direction and other invisible ones) is written as an
/// escape. Applied twice it changes nothing more.
pub fn plain(text: &str, chars_max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(chars_max));
    let mut count = 0;
    for character in text.chars() {
        let before = line.len();
        if is_plain(character) {
            line.push(character);
            count += 1;
        } else {
            line.extend(character.escape_default());
            count += line.len() - before;
        }
        if count > chars_max {
            line.truncate(before);
            line.push('…');
            break;
        }
    }
    line
}

/// Whether it may be written as it is.
pub fn is_plain(character: char) -> bool {
    let is_hidden = matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !is_hidden && !character.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_as_an_escape() {
        assert_eq!(plain("a\u{1b}[2J\nERROR b\u{202e}\u{9b}", 100), "a\\u{1b}[2J\\nERROR b\\u{202e}\\u{9b}");
        assert_eq!(plain("Ünïcode 語 𝄞 \"q\" \\n", 100), "Ünïcode 語 𝄞 \"q\" \\n");
    }

    #[test]
    fn a_text_is_cut_after_so_many_characters_of_its_line() {
        assert_eq!(plain("語語語", 3), "語語語");
        assert_eq!(plain("語語語語", 3), "語語語…");
        // An escape is not cut in two.
        assert_eq!(plain("ab\u{1b}", 4), "ab…");
        let long = plain(&"\u{7}".repeat(1_000_000), 512);
        assert!(long.chars().count() <= 513 && long.len() < 520, "{} bytes", long.len());
        assert_eq!(plain(&long, 512), long);
    }
}

//! What is read from files: names of labels, and command lines.

/// Numbers and names of labels.
pub(super) fn parse_labels(text: &str) -> Vec<(u8, String)> {
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let bit = words.next()?.parse().ok().filter(|bit: &u8| *bit < 128)?;
        Some((bit, words.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Words of a line; quotes hold blanks.
pub(super) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut begun) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            c if c.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_labels_and_commands() {
        let labels = parse_labels("# bits\n1 one\n3\tthree # odd\n128 far\nx y\n4\n");
        assert_eq!(labels, [(1, "one".to_owned()), (3, "three".to_owned())]);
        assert_eq!(split("-A  -t 5 \"a b\" \"\" c"), ["-A", "-t", "5", "a b", "", "c"]);
    }
}

//! The language of `sh -c`, as far as tests need it: words with quotes and variables, `;`, `&&`, `||`, and `>&2`.

use std::collections::BTreeMap;

/// A part of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Whether it is done, by how the step before it ended.
    pub(super) after: After,
    pub(super) words: Vec<String>,
    /// Its output goes to standard error.
    pub(super) to_stderr: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Anything,
    Success,
    Failure,
}

/// Takes a script apart. Variables are replaced at once: a script can't set any.
pub(super) fn parse(script: &str, env: &BTreeMap<String, String>, last: i32) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut step = Step { after: After::Anything, words: Vec::new(), to_stderr: false };
    let mut chars = script.chars().peekable();
    let mut word: Option<String> = None;
    loop {
        let next = chars.next();
        match next {
            None | Some(' ' | '\t' | '\n' | ';' | '&' | '|') => {
                if let Some(word) = word.take() {
                    step.words.push(word);
                }
                let after = match next {
                    Some(' ' | '\t') => continue,
                    Some(both @ ('&' | '|')) if chars.peek() == Some(&both) => {
                        chars.next();
                        if both == '&' { After::Success } else { After::Failure }
                    }
                    Some(one @ ('&' | '|')) => {
                        return Err(format!("syntax error: {one:?} is not understood here"));
                    }
                    _ => After::Anything,
                };
                let done = std::mem::replace(&mut step, Step { after, words: Vec::new(), to_stderr: false });
                if !done.words.is_empty() {
                    steps.push(done);
                }
                if next.is_none() {
                    return Ok(steps);
                }
            }
            Some('>') if word.as_deref().is_none_or(|word| word == "1") => {
                if (chars.next(), chars.next()) != (Some('&'), Some('2')) {
                    return Err("syntax error: only >&2 is understood".to_owned());
                }
                word = None;
                step.to_stderr = true;
            }
            Some('\'') => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("syntax error: unterminated quoted string")? {
                        '\'' => break,
                        other => word.push(other),
                    }
                }
            }
            Some('"') => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("syntax error: unterminated quoted string")? {
                        '"' => break,
                        '\\' => word.extend(chars.next()),
                        '$' => word.push_str(&variable(&mut chars, env, last)),
                        other => word.push(other),
                    }
                }
            }
            Some('\\') => word.get_or_insert_default().extend(chars.next()),
            Some('$') => word.get_or_insert_default().push_str(&variable(&mut chars, env, last)),
            Some(other) => word.get_or_insert_default().push(other),
        }
    }
}

fn variable(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    env: &BTreeMap<String, String>,
    last: i32,
) -> String {
    if chars.next_if_eq(&'?').is_some() {
        return last.to_string();
    }
    let braced = chars.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(char) = chars.next_if(|char| char.is_ascii_alphanumeric() || *char == '_') {
        name.push(char);
    }
    if braced {
        chars.next_if_eq(&'}');
    }
    env.get(&name).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &str) -> Result<Vec<String>, String> {
        let env = [("A".to_owned(), "a b".to_owned())].into();
        let sign = |after| match after {
            After::Anything => "",
            After::Success => "&& ",
            After::Failure => "|| ",
        };
        parse(script, &env, 7).map(|steps| {
            let line = |step: &Step| {
                format!(
                    "{}{}{}",
                    sign(step.after),
                    step.words.join("|"),
                    if step.to_stderr { " >2" } else { "" }
                )
            };
            steps.iter().map(line).collect()
        })
    }

    #[test]
    fn scripts_are_taken_apart_as_a_shell_does() {
        for (script, expected) in [
            ("echo out; echo err >&2", &["echo|out", "echo|err >2"][..]),
            ("exit 7", &["exit|7"]),
            ("a && b || c", &["a", "&& b", "|| c"]),
            ("echo 'x  y' \"$A z\" $A ${A}b $? $none", &["echo|x  y|a b z|a b|a bb|7|"]),
            ("echo a\\ b 1>&2\necho ''", &["echo|a b >2", "echo|"]),
            ("", &[]),
        ] {
            assert_eq!(words(script).unwrap(), expected, "{script}");
        }
        for script in ["a | b", "a &", "a > file", "echo 'x"] {
            assert!(words(script).unwrap_err().starts_with("syntax error"), "{script}");
        }
    }
}

//! The shell language that containers of the mock understand: lists, `if`, quotes, variables, redirections.

/// A list of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) after: After,
    pub(super) command: Command,
    /// It goes on beside those behind it.
    pub(super) beside: bool,
}

/// When a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Anything,
    Success,
    Failure,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Words, and where the output goes.
    Simple { words: Vec<String>, out: Option<Redirect> },
    /// `if`, `then`, `else`.
    If { test: Vec<Step>, then: Vec<Step>, otherwise: Vec<Step> },
}

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    Stderr,
    Write(String),
    Append(String),
}

/// A word, or one of the shell's signs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
}

/// Reads a script. `$NAME` is looked up; a single `$` is itself.
pub(super) fn parse(script: &str, look: &dyn Fn(&str) -> String) -> Result<Vec<Step>, String> {
    let tokens = tokens(script, look)?;
    let mut at = 0;
    let steps = list(&tokens, &mut at, &[])?;
    match tokens.get(at) {
        None => Ok(steps),
        Some(token) => Err(format!("syntax error: unexpected {token:?}")),
    }
}

fn list(tokens: &[Token], at: &mut usize, ends: &[&str]) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut after = After::Anything;
    while let Some(token) = tokens.get(*at) {
        match token {
            Token::Word(word) if ends.contains(&word.as_str()) => break,
            Token::Sign(";") => {
                *at += 1;
                after = After::Anything;
            }
            Token::Sign("&") => {
                *at += 1;
                if let Some(step) = steps.last_mut() {
                    step.beside = true;
                }
                after = After::Anything;
            }
            Token::Sign("&&") => {
                *at += 1;
                after = After::Success;
            }
            Token::Sign("||") => {
                *at += 1;
                after = After::Failure;
            }
            _ => {
                let command = command(tokens, at)?;
                steps.push(Step { after, command, beside: false });
                after = After::Anything;
            }
        }
    }
    Ok(steps)
}

fn command(tokens: &[Token], at: &mut usize) -> Result<Command, String> {
    if tokens.get(*at) == Some(&Token::Word("if".to_owned())) {
        *at += 1;
        let test = list(tokens, at, &["then"])?;
        *at += 1;
        let then = list(tokens, at, &["else", "fi"])?;
        let mut otherwise = Vec::new();
        if tokens.get(*at) == Some(&Token::Word("else".to_owned())) {
            *at += 1;
            otherwise = list(tokens, at, &["fi"])?;
        }
        if tokens.get(*at) != Some(&Token::Word("fi".to_owned())) {
            return Err("syntax error: fi is missing".to_owned());
        }
        *at += 1;
        return Ok(Command::If { test, then, otherwise });
    }
    let mut words = Vec::new();
    let mut out = None;
    while let Some(token) = tokens.get(*at) {
        match token {
            Token::Word(word) => words.push(word.clone()),
            Token::Sign(">&2") => out = Some(Redirect::Stderr),
            Token::Sign(sign @ (">" | ">>" | "2>")) => {
                *at += 1;
                let Some(Token::Word(file)) = tokens.get(*at) else {
                    return Err(format!("syntax error: a file is missing after {sign}"));
                };
                match *sign {
                    ">" => out = Some(Redirect::Write(file.clone())),
                    ">>" => out = Some(Redirect::Append(file.clone())),
                    _ => {}
                }
            }
            Token::Sign(_) => break,
        }
        *at += 1;
    }
    if words.is_empty() {
        Err("syntax error: a command is missing".to_owned())
    } else {
        Ok(Command::Simple { words, out })
    }
}

fn tokens(script: &str, look: &dyn Fn(&str) -> String) -> Result<Vec<Token>, String> {
    const SIGNS: [&str; 9] = [">&2", "2>", ">>", "&&", "||", ";", "\n", "&", ">"];
    let mut tokens = Vec::new();
    let mut rest = script;
    while let Some(first) = rest.chars().next() {
        if first == ' ' || first == '\t' {
            rest = &rest[1..];
            continue;
        }
        if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            rest = &rest[sign.len()..];
            tokens.push(Token::Sign(if sign == "\n" { ";" } else { sign }));
            continue;
        }
        let mut word = String::new();
        while let Some(next) = rest.chars().next() {
            match next {
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '>' => break,
                '\'' => {
                    let (inside, behind) = rest[1..].split_once('\'').ok_or("unterminated quoted string")?;
                    word.push_str(inside);
                    rest = behind;
                }
                '"' => {
                    let (inside, behind) = rest[1..].split_once('"').ok_or("unterminated quoted string")?;
                    expand(inside, look, &mut word);
                    rest = behind;
                }
                _ => {
                    let end =
                        rest.find([' ', '\t', '\n', ';', '&', '|', '>', '\'', '"']).unwrap_or(rest.len());
                    expand(&rest[..end], look, &mut word);
                    rest = &rest[end..];
                }
            }
        }
        tokens.push(Token::Word(word));
        if rest.starts_with('|') && !rest.starts_with("||") {
            return Err("pipes are not understood".to_owned());
        }
    }
    Ok(tokens)
}

fn expand(text: &str, look: &dyn Fn(&str) -> String, into: &mut String) {
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        into.push_str(before);
        let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(behind.len());
        let (name, after) =
            match (behind.strip_prefix('{').and_then(|b| b.split_once('}')), behind.chars().next()) {
                (Some((name, after)), _) => (name, after),
                (None, Some('?')) => ("?", &behind[1..]),
                _ => (&behind[..end], &behind[end..]),
            };
        if name.is_empty() {
            into.push('$');
        } else {
            into.push_str(&look(name));
        }
        rest = after;
    }
    into.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &str) -> Vec<Vec<String>> {
        let steps = parse(script, &|name| format!("<{name}>")).unwrap();
        steps
            .into_iter()
            .map(|step| match step.command {
                Command::Simple { words, .. } => words,
                Command::If { .. } => vec!["if".to_owned()],
            })
            .collect()
    }

    #[test]
    fn quotes_keep_words_together_and_variables_are_looked_up_outside_single_ones() {
        assert_eq!(
            words("trap 'exit 0' TERM; echo \"a $B\" '$C'"),
            [vec!["trap", "exit 0", "TERM"], vec!["echo", "a <B>", "$C"]]
        );
    }

    #[test]
    fn if_has_a_test_and_two_branches() {
        let steps = parse("if [ -f /x ]; then exit 0; else echo no; fi; exit 1", &|_| String::new()).unwrap();
        assert_eq!(steps.len(), 2);
        let Command::If { test, then, otherwise } = &steps[0].command else { panic!("{steps:?}") };
        assert_eq!((test.len(), then.len(), otherwise.len()), (1, 1, 1));
    }

    #[test]
    fn output_goes_where_it_is_sent() {
        let steps =
            parse("echo a > /f; echo b >> /f; echo c >&2; sleep 9 & wait", &|_| String::new()).unwrap();
        let outs: Vec<_> = steps
            .iter()
            .map(|step| match &step.command {
                Command::Simple { out, .. } => out.clone(),
                Command::If { .. } => None,
            })
            .collect();
        let (write, append) = (Redirect::Write("/f".into()), Redirect::Append("/f".into()));
        assert_eq!(outs, [Some(write), Some(append), Some(Redirect::Stderr), None, None]);
        assert!(steps[3].beside);
    }
}

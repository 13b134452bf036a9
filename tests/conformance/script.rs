//! Files of cases into steps.

use super::pattern::{self, Pattern};
use super::words::{self, Word};

/// One file of cases.
#[derive(Debug)]
pub struct Script {
    /// The file's name.
    pub name: String,
    /// What an implementation must be able to do.
    pub needs: Vec<String>,
    /// Whether the client speaks RESP3.
    pub resp3: bool,
    /// The cases, in their order.
    pub cases: Vec<Case>,
}

/// Steps that belong together and begin with an empty server.
#[derive(Debug)]
pub struct Case {
    /// What it proves.
    pub title: String,
    /// What an implementation must be able to do, beside what the file needs.
    pub needs: Vec<String>,
    /// The steps, in their order.
    pub steps: Vec<Step>,
}

/// One step, with the line where it stands.
#[derive(Debug)]
pub struct Step {
    /// Its line in the file, from 1.
    pub line: usize,
    /// What is done.
    pub action: Action,
    /// What should come back.
    pub expected: Option<Expected>,
}

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// `RESERVE sale h1 ...`: a command of the contract; `@bob RESERVE ...` on a connection of its own.
    Call { client: Option<String>, words: Vec<Word> },
    /// `server SET key value`: a command of the server.
    Server { words: Vec<Word> },
    /// `@bob`: the answer that the connection waits for.
    Receive { client: String },
    /// `wait 50`: so many milliseconds of the server's clock.
    Wait { ms: u64 },
    /// `wait until $deadline`: the server's clock is past that time.
    WaitUntil { variable: String },
    /// `stream sale`: the entries of the order stream as maps.
    Stream { key: Word },
    /// `listen`: from here on messages of the state channels are heard.
    Listen,
    /// `heard`: the messages since `listen` or the last `heard`, as `[channel message]`.
    Heard,
}

/// What should come back.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing yet: the server keeps the client waiting.
    Waits,
    /// A reply.
    Reply(Pattern),
}

/// Reads a file; the error names the line.
pub fn parse(name: &str, text: &str) -> Result<Script, String> {
    let mut script = Script { name: name.into(), needs: Vec::new(), resp3: false, cases: Vec::new() };
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_end())).peekable();
    while let Some((number, line)) = lines.next() {
        let mut reply = String::new();
        while let Some((_, more)) = lines.next_if(|(_, next)| next.starts_with(' ') && !next.trim().is_empty()) {
            reply.push_str(more.trim());
            reply.push(' ');
        }
        read_line(&mut script, number, line, reply.trim()).map_err(|error| format!("{name}:{number}: {error}"))?;
    }
    Ok(script)
}

fn read_line(script: &mut Script, number: usize, line: &str, reply: &str) -> Result<(), String> {
    let is_step = !(line.is_empty() || ["#", "== ", "needs: ", "protocol: "].iter().any(|mark| line.starts_with(mark)));
    if !is_step && !reply.is_empty() {
        return Err("a reply without its command".into());
    }
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    if let Some(title) = line.strip_prefix("== ") {
        script.cases.push(Case { title: title.into(), needs: Vec::new(), steps: Vec::new() });
        return Ok(());
    }
    if let Some(needs) = line.strip_prefix("needs: ") {
        let needs = needs.split(' ').map(str::to_owned);
        match script.cases.last_mut() {
            Some(case) => case.needs.extend(needs),
            None => script.needs.extend(needs),
        }
        return Ok(());
    }
    if line == "protocol: RESP3" && script.cases.is_empty() {
        script.resp3 = true;
        return Ok(());
    }
    let case = script.cases.last_mut().ok_or("a step before the first '== title'")?;
    let action = action(words::split(line, "")?)?;
    let answered = !matches!(action, Action::Wait { .. } | Action::WaitUntil { .. } | Action::Listen);
    let expected = match (answered, reply) {
        (true, "") => return Err("the expected reply is missing: indent it on the next line".into()),
        (true, "waits") => Some(Expected::Waits),
        (true, reply) => Some(Expected::Reply(pattern::parse(reply)?)),
        (false, "") => None,
        (false, _) => return Err("this step has no reply".into()),
    };
    case.steps.push(Step { line: number, action, expected });
    Ok(())
}

fn action(mut words: Vec<Word>) -> Result<Action, String> {
    let mut client = None;
    if let Some(name) = words.first().and_then(Word::bare).and_then(|word| word.strip_prefix('@')) {
        client = Some(name.to_owned());
        words.remove(0);
    }
    let first = words.first().and_then(Word::bare).map(str::to_owned);
    match (first.as_deref(), client) {
        (None, Some(client)) if words.is_empty() => Ok(Action::Receive { client }),
        (Some(word), client) if word.chars().all(|c| c.is_ascii_uppercase()) => Ok(Action::Call { client, words }),
        (Some("server"), None) if words.len() > 1 => Ok(Action::Server { words: words.split_off(1) }),
        (Some("stream"), None) if words.len() == 2 => Ok(Action::Stream { key: words.remove(1) }),
        (Some("listen"), None) if words.len() == 1 => Ok(Action::Listen),
        (Some("heard"), None) if words.len() == 1 => Ok(Action::Heard),
        (Some("wait"), None) => wait(&words[1..]),
        _ => Err("unknown step: commands are in capitals and without FLASH.".into()),
    }
}

fn wait(words: &[Word]) -> Result<Action, String> {
    let words: Vec<_> = words.iter().filter_map(Word::bare).collect();
    match words[..] {
        [ms] => Ok(Action::Wait { ms: ms.parse().map_err(|_| format!("no milliseconds: {ms}"))? }),
        ["until", time] => {
            let variable = time.strip_prefix('$').ok_or("wait until $variable")?;
            Ok(Action::WaitUntil { variable: variable.into() })
        }
        _ => Err("wait 50, or: wait until $variable".into()),
    }
}

#[test]
fn a_file_is_read_into_steps() {
    let text =
        "needs: block\n\n== sells\nneeds: timer\n# why\nCREATE sale\n  OK\nwait 5\n@b X a\n  waits\n@b\n  [A\n   B]\n";
    let script = parse("x.txt", text).expect("a script");
    assert_eq!((script.needs.len(), script.cases.len(), script.cases[0].steps.len()), (1, 1, 4));
    assert_eq!(script.cases[0].steps[3].line, 11);
    for (bad, problem) in
        [("CREATE s\n  OK\n", "x.txt:1"), ("== a\n  OK\n", "without"), ("== a\nCREATE s\n", "missing")]
    {
        let error = parse("x.txt", bad).expect_err(bad);
        assert!(error.contains(problem), "{error}");
    }
}

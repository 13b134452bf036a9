//! `docs/commands.md` as sections, each with its sessions.

/// What stands where a client is kept waiting.
pub const WAITS: &str = "(waits)\n";

/// The whole page: text, and in it the sections that begin with `## `.
pub struct Page {
    head: String,
    /// The sections, in their order.
    pub sections: Vec<Section>,
}

/// One section.
pub struct Section {
    /// Its heading: for commands the name, such as `FLASH.RESERVE`.
    pub title: String,
    /// The line that begins with `Since`.
    pub facts: String,
    /// The line in the block `text`.
    pub syntax: String,
    parts: Vec<Part>,
}

enum Part {
    Text(String),
    Step(Step),
}

/// A command at a prompt, and what came back; or a comment between them.
pub struct Step {
    /// Its line in the file, from 1.
    pub line: usize,
    /// `redis` or `other`: which connection; empty for a comment.
    pub prompt: String,
    /// The words after the prompt; empty where a reply comes that was waited for.
    pub command: String,
    /// The lines below it.
    pub reply: String,
}

impl Step {
    /// `# 30 ms later`
    pub fn pause_ms(&self) -> Option<u64> {
        self.command.strip_prefix("# ")?.strip_suffix(" ms later")?.parse().ok()
    }

    fn read(line: usize, text: &str) -> Option<Self> {
        let step = |prompt: &str, command: &str| Self {
            line,
            prompt: prompt.into(),
            command: command.trim_start().into(),
            reply: String::new(),
        };
        let at_prompt = |name: &str| text.strip_prefix(name)?.strip_prefix('>').map(|command| step(name, command));
        at_prompt("redis").or_else(|| at_prompt("other")).or_else(|| text.starts_with("# ").then(|| step("", text)))
    }

    fn text(&self) -> String {
        match (self.prompt.as_str(), self.command.as_str()) {
            ("", comment) => format!("{comment}\n"),
            (prompt, "") => format!("{prompt}>\n{}", self.reply),
            (prompt, command) => format!("{prompt}> {command}\n{}", self.reply),
        }
    }
}

impl Page {
    /// Reads the page.
    pub fn read(text: &str) -> Self {
        let mut page = Self { head: String::new(), sections: Vec::new() };
        let mut block = "";
        for (index, line) in text.lines().enumerate() {
            if let Some(title) = line.strip_prefix("## ").filter(|_| block.is_empty()) {
                let (facts, syntax) = Default::default();
                page.sections.push(Section { title: title.into(), facts, syntax, parts: Vec::new() });
            }
            let Some(section) = page.sections.last_mut() else {
                page.head.push_str(&format!("{line}\n"));
                continue;
            };
            match line.strip_prefix("```") {
                Some(kind) => block = kind,
                None if block == "console" => {
                    section.read_console(index + 1, line);
                    continue;
                }
                None if block == "text" => section.syntax = line.into(),
                None if line.starts_with("Since ") => section.facts = line.into(),
                None => {}
            }
            section.parts.push(Part::Text(format!("{line}\n")));
        }
        page
    }

    /// The page as text again.
    pub fn text(&self) -> String {
        let parts = self.sections.iter().flat_map(|section| &section.parts);
        let parts = parts.map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Step(step) => step.text(),
        });
        self.head.clone() + &parts.collect::<String>()
    }

    /// The sections about commands.
    pub fn commands(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(|section| section.title.starts_with("FLASH."))
    }
}

impl Section {
    fn read_console(&mut self, number: usize, line: &str) {
        match (Step::read(number, line), self.parts.last_mut()) {
            (Some(step), _) => self.parts.push(Part::Step(step)),
            (None, Some(Part::Step(step))) => step.reply.push_str(&format!("{line}\n")),
            (None, _) => panic!("docs/commands.md:{number}: a session begins with a prompt"),
        }
    }

    /// The steps of all sessions.
    pub fn steps_mut(&mut self) -> impl Iterator<Item = &mut Step> {
        self.parts.iter_mut().filter_map(|part| match part {
            Part::Step(step) => Some(step),
            Part::Text(_) => None,
        })
    }
}

#[test]
fn a_page_is_written_as_it_was_read() {
    let text = "# Top\n\n## FLASH.X\n\n```text\nFLASH.X key\n```\n\nSince 1\n\n```console\nredis> FLASH.X a\nOK\n# 5 ms later\nother>\n(nil)\n```\n\nend\n";
    let mut page = Page::read(text);
    assert_eq!(page.text(), text);
    let section = &mut page.sections[0];
    assert_eq!((section.syntax.as_str(), section.facts.as_str()), ("FLASH.X key", "Since 1"));
    let steps: Vec<_> = section.steps_mut().map(|step| (step.prompt.clone(), step.pause_ms())).collect();
    assert_eq!(steps, [("redis".into(), None), (String::new(), Some(5)), ("other".into(), None)]);
}

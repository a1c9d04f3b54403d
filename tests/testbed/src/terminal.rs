//! What a newcomer reads: steps, plain sentences, and what kubectl says; each with the time since the start.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks on the terminal"
)]
#![expect(clippy::unused_self, reason = "whatever is told is told by the one terminal")]

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Tells a story.
pub(crate) struct Terminal {
    start: Instant,
    colour: bool,
    steps: usize,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            colour: std::io::stdout().is_terminal(),
            steps: 0,
        }
    }

    /// Whether somebody may be looking who can press Ctrl-C.
    pub(crate) fn is_interactive() -> bool {
        std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
    }

    /// A title, numbered.
    pub(crate) fn step(&mut self, title: &str) {
        self.steps += 1;
        println!();
        let line = format!("{}. {title}", self.steps);
        if self.colour {
            println!("\u{1b}[1m{line}\u{1b}[0m");
        } else {
            println!("{line}");
        }
    }

    /// A sentence with the time since the start.
    pub(crate) fn say(&self, sentence: &str) {
        println!("{:>7}  {sentence}", seconds(self.start.elapsed()));
    }

    /// Lines without a time, below a sentence.
    pub(crate) fn show(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("         {line}");
        }
    }

    /// A command that a reader may repeat, and what it said.
    pub(crate) fn command(&self, command: &str, output: &str) {
        if self.colour {
            println!("         \u{1b}[36m$ {command}\u{1b}[0m");
        } else {
            println!("         $ {command}");
        }
        self.show(output);
    }

    /// A line as it is.
    pub(crate) fn line(&self, text: &str) {
        println!("{text}");
    }
}

/// Progress of what is not part of the story.
pub(crate) fn progress(line: &str) {
    eprintln!("         {line}");
}

/// `1.2 s`; below a second `120 ms`.
pub(crate) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// Columns as wide as they must be; the first row is the header.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let padded: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let rows = [["a", "bb"], ["ccc", ""]].map(|row| row.map(ToOwned::to_owned).to_vec());
        assert_eq!(table(&rows), "a     bb\nccc");
    }
}

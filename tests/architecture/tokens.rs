//! Rust as a sequence of tokens.

use std::{iter::Peekable, str::Chars};

/// A piece of Rust, as much of it as the law needs.
#[derive(Debug, PartialEq)]
pub(super) enum Token {
    /// An identifier or keyword, raw or not, and its line.
    Word(String, usize),
    /// One character of an operator.
    Sign(char),
    /// What stands in brackets, and how they open.
    Group(char, Vec<Self>),
    /// A string, character, number or lifetime.
    Literal,
}

/// Splits source that the compiler accepts into tokens; comments are left out.
pub(super) struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Self {
            rest: source.chars().peekable(),
            line: 1,
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn next_is(&mut self, wanted: char) -> bool {
        self.rest.peek() == Some(&wanted)
    }

    /// Up to the bracket that closes, or the end.
    pub(super) fn tokens(&mut self) -> Vec<Token> {
        let mut tokens = Vec::new();
        while let Some(first) = self.next() {
            match first {
                '/' if self.next_is('/') => while self.next().is_some_and(|next| next != '\n') {},
                '/' if self.next_is('*') => self.skip_comment(),
                '"' => tokens.push(self.string()),
                '\'' => tokens.push(self.quote()),
                '(' | '[' | '{' => {
                    let inner = self.tokens();
                    tokens.push(Token::Group(first, inner));
                }
                ')' | ']' | '}' => return tokens,
                _ if first.is_alphanumeric() || first == '_' => {
                    let token = self.word(first);
                    tokens.push(token);
                }
                _ if first.is_whitespace() => {}
                _ => tokens.push(Token::Sign(first)),
            }
        }
        tokens
    }

    /// Behind `/`, before `*`. Comments nest.
    fn skip_comment(&mut self) {
        let mut depth = 0;
        loop {
            match self.next() {
                Some('*') if depth > 0 && self.next_is('/') => {
                    self.next();
                    depth -= 1;
                }
                Some('*') if depth == 0 => depth = 1,
                Some('/') if self.next_is('*') => {
                    self.next();
                    depth += 1;
                }
                Some(_) => {}
                None => return,
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Behind the opening quote of a string with escapes.
    fn string(&mut self) -> Token {
        while let Some(next) = self.next() {
            match next {
                '\\' => drop(self.next()),
                '"' => break,
                _ => {}
            }
        }
        Token::Literal
    }

    /// Behind a single quote: a character, or a lifetime.
    fn quote(&mut self) -> Token {
        match self.next() {
            Some('\\') => {
                self.next();
                while self.next().is_some_and(|next| next != '\'') {}
            }
            Some(_) if self.next_is('\'') => drop(self.next()),
            _ => {
                while self
                    .rest
                    .next_if(|next| next.is_alphanumeric() || *next == '_')
                    .is_some()
                {}
            }
        }
        Token::Literal
    }

    /// A word, a number, or a literal with a prefix.
    fn word(&mut self, first: char) -> Token {
        let line = self.line;
        let mut word = String::from(first);
        while let Some(next) = self.rest.next_if(|next| next.is_alphanumeric() || *next == '_') {
            word.push(next);
        }
        let raw = matches!(word.as_str(), "r" | "br" | "cr");
        let mut hashes = 0;
        while raw && self.rest.next_if_eq(&'#').is_some() {
            hashes += 1;
        }
        match self.rest.peek() {
            Some('"') if raw => {
                self.next();
                self.raw_string(hashes)
            }
            Some('"') if matches!(word.as_str(), "b" | "c") => {
                self.next();
                self.string()
            }
            Some('\'') if word == "b" => {
                self.next();
                self.quote()
            }
            Some(&next) if hashes == 1 => {
                self.next();
                self.word(next)
            }
            _ if first.is_ascii_digit() => Token::Literal,
            _ => Token::Word(word, line),
        }
    }

    /// Behind the opening quote of a string without escapes.
    fn raw_string(&mut self, hashes: usize) -> Token {
        while let Some(next) = self.next() {
            let mut closing = 0;
            while next == '"' && closing < hashes && self.rest.next_if_eq(&'#').is_some() {
                closing += 1;
            }
            if next == '"' && closing == hashes {
                break;
            }
        }
        Token::Literal
    }
}

//! The startup parameter `options`: settings in the form of command-line switches.

/// Settings read from `options`, in the order given. Names have `_` for `-`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// Name and value of each; the last of a name wins.
    pub settings: Vec<(String, String)>,
}

/// A word in `options` that is no setting.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OptionError {
    /// A setting without `=`, or a `-c` with nothing behind it. Holds the switch as PostgreSQL
    /// would name it.
    #[error("{0} requires a value")]
    NoValue(String),
    /// A switch other than `-c` and `--name=value`, or a word that is no switch.
    #[error("unsupported command-line argument in startup packet options: {0}")]
    Unsupported(String),
}

impl Options {
    /// Reads `-c name=value`, `-cname=value` and `--name=value`, separated by white space; a
    /// backslash takes the next character as it is (`pg_split_opts` of PostgreSQL).
    ///
    /// # Errors
    ///
    /// [`OptionError`] for the first word that is no setting. PostgreSQL has more switches; all of
    /// them are settings of whole servers, or of developers.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut words = split(text).into_iter();
        let mut settings = Vec::new();
        while let Some(word) = words.next() {
            let (switch, setting) = if let Some(setting) = word.strip_prefix("--") {
                // `--` alone ends the switches, and nothing may follow them.
                if setting.is_empty() {
                    return match words.next() {
                        None => break,
                        Some(stray) => Err(OptionError::Unsupported(stray)),
                    };
                }
                ("--", setting.to_owned())
            } else if let Some(setting) = word.strip_prefix("-c") {
                let setting = if setting.is_empty() {
                    words
                        .next()
                        .ok_or_else(|| OptionError::NoValue("-c".to_owned()))?
                } else {
                    setting.to_owned()
                };
                ("-c ", setting)
            } else {
                return Err(OptionError::Unsupported(word));
            };
            let (name, value) = setting
                .split_once('=')
                .ok_or_else(|| OptionError::NoValue(format!("{switch}{setting}")))?;
            settings.push((name.replace('-', "_"), value.to_owned()));
        }
        Ok(Self { settings })
    }

    /// The value a name has in the end, the name in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.settings
            .iter()
            .rev()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Words between white space.
fn split(text: &str) -> Vec<String> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| is_space(*c)).is_some() {}
        if chars.peek().is_none() {
            return words;
        }
        let mut word = String::new();
        while let Some(c) = chars.next_if(|c| !is_space(*c)) {
            match c {
                // At the very end it stands for nothing.
                '\\' => word.extend(chars.next()),
                c => word.push(c),
            }
        }
        words.push(word);
    }
}

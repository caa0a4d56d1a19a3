//! `dfs.toml`: defaults of the command line.
//!
//! Looked for in the current directory, then in `$XDG_CONFIG_HOME/dfs` or `~/.config/dfs`; the first
//! one found counts.
//!
//! | key        | value                    | unit | default                    |
//! |------------|--------------------------|------|----------------------------|
//! | `namenode` | address of the namenode  | text | `127.0.0.1:9820`           |
//! | `user`     | user to act as           | text | operating system's user    |

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

/// File name of the configuration.
const FILE_NAME: &str = "dfs.toml";

/// Content of `dfs.toml`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Address of the namenode.
    pub namenode: Option<String>,
    /// User to act as.
    pub user: Option<String>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Present but unreadable.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, or with keys that do not exist.
    #[error("{path}, line {line}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
}

impl FileConfig {
    /// Reads the first `dfs.toml` there is; without one, everything is at its default.
    pub fn load() -> Result<Self, ConfigError> {
        for path in candidates() {
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    return Self::parse(&text).map_err(|(line, reason)| ConfigError::Parse {
                        path,
                        line,
                        reason,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(ConfigError::Read { path, source }),
            }
        }
        Ok(Self::default())
    }

    /// A refusal is a line of `text` and the reason.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or(text);
            (before.matches('\n').count() + 1, error.message().to_owned())
        })
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from(FILE_NAME)];
    let base = match std::env::var_os("XDG_CONFIG_HOME") {
        Some(dir) if !dir.is_empty() => Some(PathBuf::from(dir)),
        _ => std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")),
    };
    if let Some(base) = base {
        found.push(base.join("dfs").join(FILE_NAME));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_optional_and_unknown_ones_refused() {
        let config = FileConfig::parse("namenode = \"nn:1\"").unwrap();
        assert_eq!(config, FileConfig { namenode: Some("nn:1".into()), user: None });
        let (line, reason) = FileConfig::parse("user = \"ann\"\nnamenod = \"nn:1\"").unwrap_err();
        assert_eq!((line, reason.lines().count()), (2, 1), "{reason}");
    }
}

//! Where secrets are, and reading them.
//!
//! A secret never stands in the configuration: that file is printed, mailed and committed. It is read
//! from its own place at each use, so a new one is found without a restart, and a copy in memory is
//! wiped. Errors name the file or the variable, never what was in it.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    section::Section,
    tree::Value,
    values::{Outcome, text},
};
use crate::domain::Secret;

/// The longest secret in bytes; anything longer is another file.
const LONGEST: usize = 4096;

/// Where a secret is read from, at each use.
#[derive(Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file; white space around the secret is dropped.
    File(PathBuf),
    /// An environment variable; white space around the secret is dropped.
    Env(String),
    /// The sandbox's own.
    Fixed(Secret),
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("`{}` cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The environment variable is not set.
    #[error("the environment variable `{name}` is not set")]
    NotSet {
        /// The variable.
        name: String,
    },
    /// There is nothing but white space.
    #[error("{place} is empty")]
    Empty {
        /// The file or the variable.
        place: String,
    },
    /// There is more than 4 KiB.
    #[error("{place} is longer than 4 KiB, so it holds something else")]
    TooLong {
        /// The file or the variable.
        place: String,
    },
    /// It is not UTF-8.
    #[error("{place} is no text")]
    NoText {
        /// The file or the variable.
        place: String,
    },
}

impl SecretSource {
    /// Reads the secret as it is now.
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::File(path) => {
                let read = read_file(path);
                let bytes = read.map_err(|error| SecretError::Unreadable {
                    path: path.clone(),
                    error,
                })?;
                clean(&bytes, || format!("`{}`", path.display()))
            }
            Self::Env(name) => {
                let value = env::var_os(name);
                let value = value.ok_or_else(|| SecretError::NotSet { name: name.clone() })?;
                let bytes = Zeroizing::new(value.into_encoded_bytes());
                clean(&bytes, || format!("the environment variable `{name}`"))
            }
            Self::Fixed(secret) => Ok(Secret::new(secret.expose())),
        }
    }
}

/// Reads a little more than the longest secret, into memory that is wiped and never moved.
fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let most = LONGEST + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * most));
    let file = File::open(path)?;
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn clean(bytes: &[u8], place: impl Fn() -> String) -> Result<Secret, SecretError> {
    if bytes.len() > LONGEST {
        return Err(SecretError::TooLong { place: place() });
    }
    let text = str::from_utf8(bytes).map_err(|_| SecretError::NoText { place: place() })?;
    // Some editors put a byte order mark in front.
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(SecretError::Empty { place: place() });
    }
    Ok(Secret::new(text))
}

/// Reads which of two keys, `…_file` or `…_env`, says where a secret is.
pub(super) fn source(
    table: &Section<'_>,
    inline: &'static str,
    [in_file, in_env]: [&'static str; 2],
) -> Option<SecretSource> {
    let file = table.get(in_file, file);
    let env = table.get(in_env, variable);
    let hint = format!(
        "must not be here: put it into a file and name that with `{in_file}`, or into an environment \
         variable and name that with `{in_env}`"
    );
    let refused = table.refuse(inline, &hint);
    match (table.has(in_file), table.has(in_env)) {
        (true, true) => table.wrong(
            in_env,
            &format!("cannot stand beside `{in_file}`: keep one"),
        ),
        (false, false) if !refused => table.missing(&format!("needs `{in_file}` or `{in_env}`")),
        _ => {}
    }
    let file = file.map(SecretSource::File);
    file.or(env.map(SecretSource::Env))
}

fn file(value: &Value) -> Outcome<PathBuf> {
    let path = text(value)?;
    no_secret(
        &path,
        "must be the path of a file that holds the secret, not the secret itself",
    )?;
    Ok(path.into())
}

fn variable(value: &Value) -> Outcome<String> {
    let name = text(value)?;
    let must = "must be the name of an environment variable that holds the secret";
    no_secret(&name, &format!("{must}, not the secret itself"))?;
    let clean = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.starts_with(|c: char| c.is_ascii_digit()) || !name.bytes().all(clean) {
        return Err(must.into());
    }
    Ok(name)
}

/// Refuses what has the form of an AppSecret: later messages would quote it as a name.
fn no_secret(text: &str, message: &str) -> Outcome<()> {
    let secret = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if secret { Err(message.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(content: &[u8]) -> Result<Secret, SecretError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop");
        fs::write(&path, content).unwrap();
        SecretSource::File(path).read()
    }

    #[test]
    fn white_space_around_a_secret_is_dropped() {
        for content in ["abc", "abc\n", " \tabc\r\n\n", "\u{feff}abc\n"] {
            let secret = read(content.as_bytes()).unwrap();
            assert_eq!(secret.expose(), "abc", "{content:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused_without_being_quoted() {
        let long = format!("CANARY{}", "x".repeat(LONGEST));
        // (content, the end of what is told)
        let table: [(&[u8], &str); 4] = [
            (b"", "shop` is empty"),
            (b" \n", "shop` is empty"),
            (
                long.as_bytes(),
                "shop` is longer than 4 KiB, so it holds something else",
            ),
            (b"CANARY\xff", "shop` is no text"),
        ];
        for (content, end) in table {
            let error = read(content).unwrap_err();
            let (told, shown) = (error.to_string(), format!("{error:?}"));
            assert!(told.ends_with(end), "{told}");
            assert!(
                !told.contains("CANARY") && !shown.contains("CANARY"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_secret_of_4_kib_is_read_whole() {
        let secret = read("x".repeat(LONGEST).as_bytes()).unwrap();
        assert_eq!(secret.expose().len(), LONGEST);
    }

    #[test]
    fn errors_name_the_file_or_the_variable() {
        let file = SecretSource::File("/nowhere/shop".into()).read();
        let told = file.unwrap_err().to_string();
        assert!(
            told.starts_with("`/nowhere/shop` cannot be read: "),
            "{told}"
        );
        let variable = SecretSource::Env("WXTOKEND_TEST_NOWHERE".into()).read();
        let told = variable.unwrap_err().to_string();
        assert_eq!(
            told,
            "the environment variable `WXTOKEND_TEST_NOWHERE` is not set"
        );
    }

    #[test]
    fn a_variable_holds_a_secret_as_well() {
        // Cargo sets this one for every test.
        let secret = SecretSource::Env("CARGO_PKG_NAME".into()).read().unwrap();
        assert_eq!(secret.expose(), "wxtokend");
    }

    #[test]
    fn debug_does_not_show_a_fixed_secret() {
        let source = SecretSource::Fixed(Secret::new("CANARY"));
        assert_eq!(format!("{source:?}"), "Fixed(Secret(***))");
        assert_eq!(source.read().unwrap().expose(), "CANARY");
    }
}

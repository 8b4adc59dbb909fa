//! What is allowed and still deserves a word: told by `wxtokend check`, refused by nobody.
//!
//! These things may change while the server runs, so they are no part of what makes a `Config` valid.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use http::Uri;

use super::{Config, Listen, SecretSource, Store};

impl Config {
    /// Secrets that cannot be read now or that everybody can read, and settings that are probably not
    /// meant; one sentence each. Reads the files and variables that hold secrets.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for app in &self.apps {
            warnings.extend(of_secret(&format!("app `{}`", app.name), &app.secret));
        }
        for consumer in &self.consumers {
            warnings.extend(of_secret(
                &format!("consumer `{}`", consumer.grant.holder),
                &consumer.key,
            ));
        }
        warnings.extend(self.of_store());
        warnings.extend(self.upstream.ca_file.as_deref().and_then(of_ca_file));
        warnings.extend(
            self.upstream
                .base_urls
                .iter()
                .enumerate()
                .filter_map(of_base_url),
        );
        warnings.extend(self.of_listener());
        warnings
    }

    /// What a shared store needs and nobody can read now.
    fn of_store(&self) -> Vec<String> {
        let (password, tls) = match &self.store {
            Store::Memory | Store::File { .. } => return Vec::new(),
            Store::Etcd(etcd, _) => (etcd.user.as_ref().map(|(_, file)| file), &etcd.tls),
            Store::Redis(redis, _) => (redis.password_file.as_ref(), &redis.tls),
        };
        let mut warnings = Vec::new();
        if let Some(file) = password {
            let source = SecretSource::File(file.clone());
            warnings.extend(of_secret("the store's password", &source));
        }
        let (cert, key) = tls.identity.clone().unzip();
        for file in [tls.ca_file.clone(), cert, key].into_iter().flatten() {
            if let Err(error) = fs::File::open(&file) {
                warnings.push(format!("`{}` cannot be read: {error}", file.display()));
            }
        }
        warnings
    }

    fn of_listener(&self) -> Option<String> {
        let Listen::Tcp(address) = &self.grpc.listen else {
            return None;
        };
        let (host, _) = address.rsplit_once(':')?;
        let unheard = self.consumers.is_empty() && !is_loopback(host);
        unheard.then(|| {
            format!(
                "`grpc.listen` is `{address}`, but no `[[consumer]]` is configured, so only programs \
                 on the same machine may ask"
            )
        })
    }
}

fn of_secret(whose: &str, source: &SecretSource) -> Option<String> {
    if let Err(error) = source.read() {
        return Some(format!("{whose}: {error}"));
    }
    let SecretSource::File(path) = source else {
        return None;
    };
    // Through links: the permissions that count are those of the file.
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let open = mode & 0o004 != 0;
    let path = path.display();
    open.then(|| format!("{whose}: `{path}` is readable by everybody on this machine"))
}

fn of_ca_file(path: &Path) -> Option<String> {
    let error = fs::File::open(path).err()?;
    Some(format!(
        "`upstream.ca_file`: `{}` cannot be read: {error}",
        path.display()
    ))
}

fn of_base_url((n, url): (usize, &String)) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let clear = uri.scheme_str() == Some("http") && !uri.host().is_some_and(is_loopback);
    clear.then(|| format!("`upstream.base_urls[{n}]` is not https: AppSecrets can be overheard"))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn warned(text: &str) -> Vec<String> {
        Config::parse(text, "f.toml", []).unwrap().warnings()
    }

    fn file(folder: &Path, name: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, "CANARY\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_tidy_configuration_gives_no_warning() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "shop", 0o600);
        let text = format!("[[app]]\nappid = 'wx1'\nsecret_file = '{}'", path.display());
        assert_eq!(warned(&text), Vec::<String>::new());
    }

    #[test]
    fn secrets_that_are_missing_or_open_to_everybody_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (open, gone) = (
            file(folder.path(), "open", 0o644),
            folder.path().join("gone"),
        );
        let (open, gone) = (open.display(), gone.display());
        let text = format!(
            "[[app]]\nappid = 'wx1'\nname = 'shop'\nsecret_file = '{open}'\n\
             [[app]]\nappid = 'wx2'\nsecret_env = 'WXTOKEND_TEST_NOWHERE'\n\
             [[consumer]]\nname = 'orders'\nkey_file = '{gone}'\napps = ['*']\n"
        );
        let warnings = warned(&text);
        let expected = [
            format!("app `shop`: `{open}` is readable by everybody on this machine"),
            "app `wx2`: the environment variable `WXTOKEND_TEST_NOWHERE` is not set".into(),
        ];
        assert_eq!(warnings[..2], expected);
        let told = format!("consumer `orders`: `{gone}` cannot be read: ");
        assert!(warnings[2].starts_with(&told), "{}", warnings[2]);
        assert_eq!(warnings.len(), 3);
    }

    #[test]
    fn settings_that_are_probably_not_meant_are_named() {
        let app = "[[app]]\nappid = 'wx1'\nsecret_env = 'CARGO_PKG_NAME'\n";
        // (text before the app, how a warning begins)
        let table = [
            (
                "[grpc]\nlisten = '0.0.0.0:1'",
                Some("`grpc.listen` is `0.0.0.0:1`, but no"),
            ),
            (
                "[grpc]\nlisten = '[::]:1'",
                Some("`grpc.listen` is `[::]:1`, but no"),
            ),
            ("[grpc]\nlisten = '[::1]:1'", None),
            ("[grpc]\nlisten = 'localhost:1'", None),
            ("[grpc]\nlisten = 'unix:a'", None),
            (
                "[upstream]\nbase_urls = ['http://proxy']",
                Some("`upstream.base_urls[0]` is not https"),
            ),
            ("[upstream]\nbase_urls = ['http://127.0.0.1:8080']", None),
            (
                "[upstream]\nca_file = '/nowhere'",
                Some("`upstream.ca_file`: `/nowhere` cannot be read"),
            ),
        ];
        for (text, begins) in table {
            let warnings = warned(&format!("{text}\n{app}"));
            let first = warnings.first().map(String::as_str);
            match begins {
                None => assert_eq!(first, None, "{text}"),
                Some(begins) => assert!(first.unwrap().starts_with(begins), "{warnings:?}"),
            }
        }
    }
}

//! Downloads from a model hub (`{base}/{repo}/resolve/main/{file}`), resuming where it stopped.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONTENT_RANGE, RANGE};

use super::{Job, PullError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest silence in the middle of a download.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

impl Job<'_> {
    /// Completes `part` from the hub; says whether it began with bytes of an earlier try.
    pub(super) fn download_from_hub(
        &mut self,
        repo: &str,
        file: &str,
        part: &Path,
    ) -> Result<bool, PullError> {
        let artefact = self.model.artefact();
        let url = format!("{}/{repo}/resolve/main/{file}", self.endpoints.hub);
        let disk = PullError::disk(part);
        let options = File::options().create(true).truncate(false).write(true).clone();
        let mut output = options.open(part).map_err(&disk)?;
        let mut have = output.metadata().map_err(&disk)?.len();
        if have > artefact.size {
            output.set_len(0).map_err(&disk)?;
            have = 0;
        }
        if have == artefact.size {
            return Ok(true);
        }
        let client = client().map_err(|e| self.offline(&e))?;
        let mut response = self.request(&client, &url, have)?;
        if have > 0 && !continues_at(&response, have) {
            // The server does not resume (200), or disagrees about the file (416, odd range).
            have = 0;
            if response.status() != StatusCode::OK {
                response = self.request(&client, &url, 0)?;
            }
        }
        output.set_len(have).map_err(&disk)?;
        output.seek(SeekFrom::Start(have)).map_err(&disk)?;
        let mut response = self.answered(response, &url)?;
        let copied = self.copy(artefact, &mut response, &mut output, have);
        output.sync_all().map_err(&disk)?;
        match copied {
            Ok(done) if done == artefact.size => Ok(have > 0),
            Ok(done) => Err(PullError::Interrupted {
                model: self.model.name.clone(),
                detail: format!("{url} ended after {done} of {} bytes", artefact.size),
            }),
            Err(error) => {
                if matches!(error, PullError::Mismatch { .. }) {
                    fs::remove_file(part).map_err(&disk)?;
                }
                Err(error)
            }
        }
    }

    fn request(&self, client: &Client, url: &str, from: u64) -> Result<Response, PullError> {
        let mut request = client.get(url);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        request.send().map_err(|e| self.offline(&e))
    }

    fn answered(&self, response: Response, url: &str) -> Result<Response, PullError> {
        let model = self.model.name.clone();
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN => Err(PullError::NotFound { model, what: url.to_owned() }),
            status => {
                Err(PullError::Interrupted { model, detail: format!("{url} answered {status}") })
            }
        }
    }

    fn offline(&self, error: &reqwest::Error) -> PullError {
        let mut detail = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            detail = format!("{detail}: {inner}");
            cause = inner.source();
        }
        let (model, from) = (self.model.name.clone(), self.endpoints.hub.clone());
        PullError::Offline { model, from, detail }
    }
}

fn client() -> reqwest::Result<Client> {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(READ_TIMEOUT).build()
}

/// A 206 that begins at byte `from`.
fn continues_at(response: &Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|r| r.starts_with(&format!("bytes {from}-")))
}

//! Requests to platforms over HTTP, bounded in time and size.

use std::io::Read;
use std::time::Duration;

use reqwest::blocking::Client;
use reqwest::redirect::Policy;

use crate::channels::{ApiRequest, ApiResponse, Method};

const CONNECT: Duration = Duration::from_secs(3);
const LONGEST: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(5);
/// A page of a thousand messages is a few MB.
const MOST_BYTES: u64 = 8 << 20;

/// Why there is no answer. Addresses hold tokens: no text of the client's is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Nothing left this machine.
    #[error("the platform cannot be reached")]
    Unsent,
    /// The platform may have done it.
    #[error("the platform gave no whole answer")]
    Unclear,
}

pub struct Api {
    client: Client,
}

impl Api {
    /// # Errors
    /// When the system's certificates cannot be read.
    pub fn new() -> Result<Self, reqwest::Error> {
        // Fails when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(LONGEST)
            .redirect(Policy::none())
            // Platforms close what is idle: a send on such a connection could not be told from a lost one.
            .pool_idle_timeout(IDLE)
            .build()?;
        Ok(Self { client })
    }

    pub fn call(&self, request: &ApiRequest) -> Result<ApiResponse, NoAnswer> {
        let mut call = match request.method {
            Method::Get => self.client.get(&request.url),
            Method::Post => self.client.post(&request.url).body(request.body.clone()),
        };
        for (name, value) in &request.headers {
            call = call.header(*name, value);
        }
        let response = call.send().map_err(|error| {
            if error.is_connect() || error.is_builder() {
                NoAnswer::Unsent
            } else {
                NoAnswer::Unclear
            }
        })?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        let read = response.take(MOST_BYTES + 1).read_to_end(&mut body);
        if read.is_err() || body.len() as u64 > MOST_BYTES {
            return Err(NoAnswer::Unclear);
        }
        Ok(ApiResponse { status, body })
    }
}

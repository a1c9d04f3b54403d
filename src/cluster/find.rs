//! Reading several objects at once, cut down at the door.

use kube::{Resource, api::ListParams, core::request};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    call::{Call, UNBUILDABLE, Verb},
    client::{Cluster, kind_of, path_of},
    error::{Class, Error},
};
use crate::api::ObjectKey;

/// Objects of one page. Pods have about ten kB each, and a page is held whole.
const PAGE: u32 = 100;
/// How often a list begins again because its continuation was too old.
const ATTEMPTS: u32 = 3;

/// What a list found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// Those that were kept.
    pub objects: Vec<T>,
    /// How many could not be read: they exist all the same.
    pub malformed: usize,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct PageMeta {
    #[serde(default, rename = "continue")]
    continue_: Option<String>,
}

#[derive(Deserialize)]
struct Served {
    #[serde(default)]
    resources: Vec<ServedKind>,
}

#[derive(Deserialize)]
struct ServedKind {
    #[serde(default)]
    name: String,
}

impl Cluster {
    /// Reads the objects of one kind in `namespace` as they are now, those that `labels` chooses, page by page; `keep` cuts
    /// each down to what is kept of it. Each is parsed alone, so that a malformed one harms no other. All of them or an
    /// error, never some.
    pub async fn find_all<K, T, U>(
        &self,
        namespace: &str,
        labels: Option<&str>,
        keep: impl Fn(T) -> Option<U>,
    ) -> Result<Found<U>, Error>
    where
        K: Resource<DynamicType = ()>,
        T: DeserializeOwned,
    {
        let mut attempt = 1;
        loop {
            match self.find_all_once::<K, T, U>(namespace, labels, &keep).await {
                Err(Error {
                    class: Class::Expired,
                    ..
                }) if attempt < ATTEMPTS => attempt += 1,
                found => return found,
            }
        }
    }

    async fn find_all_once<K, T, U>(
        &self,
        namespace: &str,
        labels: Option<&str>,
        keep: &impl Fn(T) -> Option<U>,
    ) -> Result<Found<U>, Error>
    where
        K: Resource<DynamicType = ()>,
        T: DeserializeOwned,
    {
        let key = ObjectKey::new(namespace, "");
        let call = Call {
            verb: Verb::List,
            kind: kind_of::<K>(),
            key: &key,
        };
        let mut params = ListParams {
            label_selector: labels.map(str::to_owned),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut found = Found {
            objects: Vec::new(),
            malformed: 0,
        };
        loop {
            let request = request::Request::new(path_of::<K>(namespace))
                .list(&params)
                .map_err(|_| call.failed(UNBUILDABLE))?;
            let page = self.call_with(call, request, |body| {
                let Page { metadata, items } = serde_json::from_slice(body)?;
                let read: Vec<Option<U>> = items
                    .into_iter()
                    .map(|item| keep(serde_json::from_str(item.get()).ok()?))
                    .collect();
                Ok((metadata, read))
            });
            let (PageMeta { continue_ }, read) = page.await?;
            for object in read {
                match object {
                    Some(object) => found.objects.push(object),
                    None => found.malformed += 1,
                }
            }
            params.continue_token = continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(found);
            }
        }
    }

    /// Whether the API server serves this kind; none if it does not say.
    pub(super) async fn serves<K: Resource<DynamicType = ()>>(&self) -> Option<bool> {
        let key = ObjectKey::new("", "");
        let call = Call {
            verb: Verb::List,
            kind: "APIResource",
            key: &key,
        };
        let path = format!("/apis/{}/{}", K::group(&()), K::version(&()));
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        match self.call::<Served>(call, request).await {
            Ok(Served { resources }) => Some(resources.iter().any(|kind| kind.name == K::plural(&()))),
            Err(error) if error.class == Class::NotFound => Some(false),
            Err(error) => {
                tracing::debug!(kind = kind_of::<K>(), %error, "whether a kind is served is not known");
                None
            }
        }
    }
}

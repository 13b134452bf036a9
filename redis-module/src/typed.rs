//! Values of the module's native types in keys: `T` is what the callbacks of the type were written for.

use crate::execute::Fault;
use crate::server::{Key, KeyKind};
use redis_module::raw;
use std::marker::PhantomData;

/// A native type whose values are boxes of `T`.
pub(crate) struct NativeType<T> {
    raw: *mut raw::RedisModuleType,
    _value: PhantomData<fn() -> T>,
}

impl<T> Clone for NativeType<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for NativeType<T> {}

impl<T> NativeType<T> {
    /// Before the type is registered: no key has it.
    pub const NONE: Self = Self { raw: std::ptr::null_mut(), _value: PhantomData };

    /// `None` if the server refused the type.
    ///
    /// # Safety
    /// `raw` is null, or a type whose callbacks take and give values made by `Box::into_raw` of a `T`.
    pub unsafe fn from_raw(raw: *mut raw::RedisModuleType) -> Option<Self> {
        (!raw.is_null()).then_some(Self { raw, _value: PhantomData })
    }

    /// Whether an open key has a value of this type.
    pub fn is_in(self, key: &Key<'_>) -> bool {
        key.kind() == KeyKind::Module && key.value().0 == self.raw
    }

    /// The value in an open key; `None` if the key is empty.
    pub fn of<'k>(self, key: &'k mut Key<'_>) -> Result<Option<&'k mut T>, Fault> {
        let (found, value) = key.value();
        if found != self.raw {
            return if key.kind() == KeyKind::Empty { Ok(None) } else { Err(Fault::WrongType) };
        }
        // SAFETY: a value of this type was made by `Box::into_raw` of a `T` (`from_raw`, `put`), lives as long as
        // its key, which is open and exclusively borrowed, and is reached on the main thread alone. Callbacks of
        // the type that the server runs meanwhile (none while a command has the key open) only get shared access.
        Ok(unsafe { value.cast::<T>().as_mut() })
    }

    /// Puts a value into a key that is open for writing and empty.
    pub fn put<'k>(self, key: &'k mut Key<'_>, value: T) -> Option<&'k mut T> {
        let value = Box::into_raw(Box::new(value));
        // SAFETY: the value is what the callbacks of the type expect; the key owns it if the server says so, and
        // we still do if it does not.
        unsafe {
            if key.set_value(self.raw, value.cast()) {
                return value.as_mut();
            }
            drop(Box::from_raw(value));
            None
        }
    }
}

//! A list that is short nearly always: its first elements stand in it, so that they cost no allocation.

use std::ops::{Deref, DerefMut};

/// Up to `N` elements without an allocation, and any number with one.
#[derive(Debug)]
pub struct Few<T, const N: usize> {
    first: [T; N],
    count: usize, // of `first`, while all of them are there
    all: Vec<T>,  // once they are more
}

impl<T: Default, const N: usize> Default for Few<T, N> {
    fn default() -> Few<T, N> {
        Few {
            first: std::array::from_fn(|_| T::default()),
            count: 0,
            all: Vec::new(),
        }
    }
}

impl<T: Default, const N: usize> Few<T, N> {
    #[inline]
    pub fn push(&mut self, element: T) {
        match self.first.get_mut(self.count) {
            Some(place) if self.all.is_empty() => {
                *place = element;
                self.count += 1;
            }
            _ => self.push_more(element),
        }
    }

    #[cold]
    fn push_more(&mut self, element: T) {
        if self.all.is_empty() {
            self.all.extend(self.first.iter_mut().map(std::mem::take));
        }
        self.all.push(element);
    }

    /// All of it, to be taken apart.
    pub fn into_vec(mut self) -> Vec<T> {
        if self.all.is_empty() {
            self.all
                .extend(self.first.iter_mut().take(self.count).map(std::mem::take));
        }
        self.all
    }
}

impl<T, const N: usize> Deref for Few<T, N> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        if self.all.is_empty() {
            self.first.get(..self.count).unwrap_or(&[])
        } else {
            &self.all
        }
    }
}

impl<T, const N: usize> DerefMut for Few<T, N> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        if self.all.is_empty() {
            self.first.get_mut(..self.count).unwrap_or(&mut [])
        } else {
            &mut self.all
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Few;

    #[test]
    fn it_holds_what_was_put_in_whether_few_or_many() {
        for length in 0..6 {
            let mut few: Few<String, 2> = Few::default();
            let mut vec = Vec::new();
            for number in 0..length {
                few.push(number.to_string());
                vec.push(number.to_string());
                assert_eq!(few[..], vec[..]);
                few.last_mut().unwrap().push('x');
                vec.last_mut().unwrap().push('x');
            }
            assert_eq!(few.len(), length);
            assert_eq!(few[..], vec[..]);
            assert_eq!(few.into_vec(), vec);
        }
    }
}

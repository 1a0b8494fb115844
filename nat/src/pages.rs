//! An array in pages that never move: it grows without copying what is in it, and gives back
//! pages that nobody needs.

/// Elements of a page.
pub(crate) const PAGE: usize = 256;

/// The page of an element.
pub(crate) fn page_of(at: u32) -> usize {
    at as usize / PAGE
}

#[derive(Debug)]
pub(crate) struct Pages<T> {
    pages: Vec<Option<Box<[T; PAGE]>>>,
}

impl<T> Pages<T> {
    pub(crate) const fn new() -> Self {
        Self { pages: Vec::new() }
    }

    /// Pages that there are or have been.
    pub(crate) fn count(&self) -> usize {
        self.pages.len()
    }

    #[inline]
    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        Some(&self.pages.get(page_of(at))?.as_ref()?[at as usize % PAGE])
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        Some(&mut self.pages.get_mut(page_of(at))?.as_mut()?[at as usize % PAGE])
    }

    /// Makes a page, unless it is there. Its elements are told their places in it.
    pub(crate) fn make(&mut self, page: usize, element: impl Fn(usize) -> T) {
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let place = &mut self.pages[page];
        if place.is_none() {
            let elements: Box<[T]> = (0..PAGE).map(element).collect();
            *place = elements.try_into().ok();
        }
    }

    /// Gives a page back.
    pub(crate) fn release(&mut self, page: usize) {
        if let Some(place) = self.pages.get_mut(page) {
            *place = None;
        }
    }

    /// All elements of the pages that are there, by number, from a number on.
    pub(crate) fn from(&self, first: usize) -> impl Iterator<Item = (u32, &T)> {
        let pages = self.pages.iter().enumerate().skip(first / PAGE);
        pages
            .filter_map(|(number, page)| Some((number * PAGE, page.as_deref()?)))
            .flat_map(|(start, page)| {
                page.iter().enumerate().map(move |(at, element)| ((start + at) as u32, element))
            })
            .skip_while(move |(at, _)| (*at as usize) < first)
    }

    /// All elements of the pages that are there.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flatten().flat_map(|page| page.iter_mut())
    }
}

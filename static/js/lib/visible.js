// Work that waits until its element comes near the window.

// Returns a function that watches an element and calls `act` with it once, within `margin` of the window.
export const whenNear = (margin, act) => {
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        act(target);
      }
    },
    { rootMargin: margin },
  );
  return (element) => observer.observe(element);
};

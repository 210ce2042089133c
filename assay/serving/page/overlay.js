// A picture with what the scorer saw drawn over it.

const SIDE = 480;
const HUES = ["#ff3b5c", "#12b886", "#3b82f6", "#f59f00", "#a855f7", "#06b6d4", "#ec4899", "#84cc16"];

/** One colour for each label, the same in the picture and in the table. */
export function colorsOf(detections) {
  const labels = [...new Set(detections.map((detection) => detection.label))];
  return new Map(labels.map((label, index) => [label, HUES[index % HUES.length]]));
}

/** A canvas of the bitmap with boxes, their labels, and points; coordinates are pixels of the bitmap. */
export function draw(bitmap, { detections = [], points = [] }) {
  const canvas = document.createElement("canvas");
  const scale = SIDE / Math.max(bitmap.width, bitmap.height);
  const density = Math.max(window.devicePixelRatio || 1, 1);
  canvas.width = Math.round(bitmap.width * scale * density);
  canvas.height = Math.round(bitmap.height * scale * density);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The image, with ${detections.length} boxes and ${points.length} points`);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < 2;  // small pictures are shown as the pixels that they are
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const colors = colorsOf(detections);
  for (const detection of detections) drawBox(context, detection, colors.get(detection.label), scale * density, density);
  for (const point of points) drawPoint(context, point, scale * density, density);
  return canvas;
}

function drawBox(context, { label, confidence, box }, color, scale, density) {
  const [x, y] = [box.x1 * scale, box.y1 * scale];
  context.lineWidth = 2 * density;
  context.strokeStyle = color;
  context.strokeRect(x, y, (box.x2 - box.x1) * scale, (box.y2 - box.y1) * scale);
  context.font = `${12 * density}px system-ui, sans-serif`;
  const text = `${label.slice(0, 40)} ${(confidence * 100).toFixed(0)} %`;
  const [width, height] = [context.measureText(text).width + 8 * density, 17 * density];
  const left = Math.max(0, Math.min(x, context.canvas.width - width));
  const top = y >= height ? y - height : y;
  context.fillStyle = color;
  context.fillRect(left, top, width, height);
  context.fillStyle = "#fff";
  context.fillText(text, left + 4 * density, top + 12.5 * density);
}

function drawPoint(context, { x = 0, y = 0 }, scale, density) {
  const path = (radius) => {
    context.beginPath();
    context.arc(x * scale, y * scale, radius * density, 0, 2 * Math.PI);
  };
  path(7);
  context.lineWidth = 4 * density;
  context.strokeStyle = "#fff";
  context.stroke();
  context.lineWidth = 2 * density;
  context.strokeStyle = HUES[0];
  context.stroke();
  path(2);
  context.fillStyle = HUES[0];
  context.fill();
}
